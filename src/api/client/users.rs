//! Searching for people.

use ruma::api::client::user_directory::search_users::v3::{Request, Response, User as Shown};

use crate::{
    api::auth::User,
    error::{Error, Result},
    rooms::user_search,
    server::Server,
};

/// How many results there are at most.
const MAX_LIMIT: u64 = 100;

/// `POST /_matrix/client/v3/user_directory/search`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3user_directorysearch))
pub async fn search_user_directory(server: &Server, user: User, req: Request) -> Result<Response> {
    let limit = usize::try_from(u64::from(req.limit).min(MAX_LIMIT)).unwrap_or_default();
    let (store, name) = (server.store.clone(), server.name().to_owned());
    let all_local = server.config().user_directory_all_users;
    // It reads many rows: not where other requests wait.
    let search = move || user_search::search(&store.read(), &name, &user.id, &req.search_term, limit, all_local);
    let (found, limited) = tokio::task::spawn_blocking(search).await.map_err(Error::internal)??;
    let results = found.into_iter().map(|found| {
        let mut shown = Shown::new(found.user);
        shown.display_name = found.display_name;
        shown.avatar_url = found.avatar_url.map(Into::into);
        shown
    });
    Ok(Response::new(results.collect(), limited))
}
