//! The whole API surface on one page: one line for each operation.
//!
//! Method, paths (also `r0` and unstable ones), authentication and rate limit are those of the handler's request type.

use crate::{
    error::{Error, Result},
    http::{Route, Router},
    server::Server,
};

/// Every route of the server.
pub fn routes() -> Vec<Route<Server>> {
    vec![]
}

/// The router over all routes.
///
/// # Errors
/// When two routes claim the same method and path.
pub fn router() -> Result<Router<Server>> {
    Router::builder().add_all(routes()).build().map_err(|clash| Error::internal(format_args!("{clash}")))
}
