//! [Transactions](https://spec.matrix.org/latest/server-server-api/#transactions) of other servers.

use std::sync::Arc;

use ruma::{
    OwnedServerName, ServerName,
    api::federation::transactions::{
        edu::Edu,
        send_transaction_message::v1::{Request, Response},
    },
    serde::Raw,
};

use crate::{
    api::auth::Origin,
    error::{Error, Result},
    federation::{
        edu,
        inbound::{self, Results},
    },
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
    federation.inbound.in_turn(origin, receive(server, origin, req)).await.map(Response::new)
}

async fn receive(server: &Server, origin: &OwnedServerName, req: Request) -> Result<Results> {
    let federation = &server.federation;
    let Request { transaction_id, pdus, edus, .. } = req;
    if let Some(results) = federation.inbound.answer(origin, &transaction_id) {
        return Ok((*results).clone());
    }
    // Keys before the events that they are for, events before what is said of them.
    let (first, later): (Vec<_>, Vec<_>) = edus.iter().partition(|edu| edu::is_about_keys(edu));
    handle(server, origin, first).await?;
    let results = Arc::new(inbound::receive(federation, origin, pdus).await?);
    handle(server, origin, later).await?;
    federation.inbound.answered(origin, transaction_id, results.clone());
    Ok((*results).clone())
}

async fn handle(server: &Server, origin: &ServerName, edus: Vec<&Raw<Edu>>) -> Result<()> {
    for edu in edus {
        edu::handle(&server.federation, &server.typing, &server.presence, origin, edu)?;
        // Each can be some work: others have their turn.
        tokio::task::yield_now().await;
    }
    Ok(())
}
