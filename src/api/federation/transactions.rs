//! [Transactions](https://spec.matrix.org/latest/server-server-api/#transactions) of other servers.

use std::sync::Arc;

use ruma::api::federation::transactions::send_transaction_message::v1::{Request, Response};

use crate::{
    api::auth::Origin,
    error::{Error, Result},
    federation::{edu, inbound},
    server::Server,
};

/// The most PDUs in a transaction.
const MAX_PDUS: usize = 50;

/// The most EDUs in a transaction.
const MAX_EDUS: usize = 100;

/// `PUT /_matrix/federation/v1/send/{txnId}`
/// ([spec](https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1sendtxnid))
pub async fn send_transaction(server: &Server, origin: Origin, req: Request) -> Result<Response> {
    let (federation, origin) = (&server.federation, &origin.server);
    if req.pdus.len() > MAX_PDUS || req.edus.len() > MAX_EDUS {
        return Err(Error::too_large(format!(
            "A transaction has at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs; this one has {} and {}.",
            req.pdus.len(),
            req.edus.len(),
        )));
    }
    let _turn = federation.inbound.turn(origin).await?;
    if let Some(results) = federation.inbound.answer(origin, &req.transaction_id) {
        return Ok(Response::new((*results).clone()));
    }
    // Keys before the events that they are for, events before what is said of them.
    let (first, later): (Vec<_>, Vec<_>) = req.edus.iter().partition(|edu| edu::is_about_keys(edu));
    for edu in first {
        edu::handle(federation, &server.typing, &server.presence, origin, edu)?;
    }
    let results = Arc::new(inbound::receive(federation, origin, req.pdus).await?);
    for edu in later {
        edu::handle(federation, &server.typing, &server.presence, origin, edu)?;
    }
    federation.inbound.answered(origin, req.transaction_id, results.clone());
    Ok(Response::new((*results).clone()))
}
