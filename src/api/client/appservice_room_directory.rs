//! The rooms that an application service lists for its networks
//! ([spec](https://spec.matrix.org/latest/application-service-api/#application-service-room-directories)).

use ruma::api::client::{
    appservice::set_room_visibility::v3::{Request, Response},
    room::Visibility,
};

use crate::{
    api::auth::Appservice,
    error::{Error, Result},
    rooms::{self, directory},
    server::Server,
};

/// The longest name of a network, in bytes.
const MAX_NETWORK: usize = 255;

/// `PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}`
/// ([spec](https://spec.matrix.org/latest/application-service-api/#put_matrixclientv3directorylistappservicenetworkidroomid))
pub async fn update_appservice_room_directory_visibility(
    server: &Server,
    Appservice(service): Appservice,
    req: Request,
) -> Result<Response> {
    if req.network_id.len() > MAX_NETWORK {
        return Err(Error::invalid_param(format!("A network's name must not be longer than {MAX_NETWORK} bytes.")));
    }
    let listed = match req.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(Error::invalid_param("visibility must be public or private.")),
    };
    server.store.write(|tx| {
        let (room, _) = rooms::require(tx, &req.room_id)?;
        directory::set_listed(tx, &service.id, &req.network_id, room, listed);
        Ok(())
    })?;
    Ok(Response::new())
}
