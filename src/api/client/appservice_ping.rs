//! Whether this server reaches an application service, for the application service.

use http::StatusCode;
use ruma::api::{
    client::appservice::request_ping::v1::{Request, Response},
    error::{BadStatusErrorData, ErrorKind},
};
use serde_json::{Map, json};

use crate::{
    api::auth::Appservice,
    clock,
    error::{Error, Result},
    outgoing::appservices::{self, Failure},
    server::Server,
};

/// How much of a refusal is told, in bytes.
const MAX_BODY: usize = 4096;

/// `POST /_matrix/client/v1/appservice/{appserviceId}/ping`
/// ([spec](https://spec.matrix.org/latest/application-service-api/#post_matrixclientv1appserviceappserviceidping))
pub async fn ping_appservice(server: &Server, Appservice(service): Appservice, req: Request) -> Result<Response> {
    if req.appservice_id != service.id {
        return Err(Error::forbidden("This is the token of another application service."));
    }
    let mut body = Map::new();
    if let Some(transaction) = req.transaction_id {
        body.insert("transaction_id".to_owned(), json!(transaction));
    }
    let start = clock::instant();
    match appservices::ping(&server.federation.outgoing, &service, serde_json::to_vec(&body)?).await {
        Ok(()) => Ok(Response::new(start.elapsed())),
        Err(failure) => Err(told(failure)),
    }
}

fn told(failure: Failure) -> Error {
    let message = format!("The application service was not reached: {failure}.");
    match failure {
        Failure::Deaf => Error::bad_request(ErrorKind::UrlNotSet, "The registration has no url."),
        Failure::Unreachable(_) => Error::new(StatusCode::BAD_GATEWAY, ErrorKind::ConnectionFailed, message),
        Failure::Slow => Error::new(StatusCode::GATEWAY_TIMEOUT, ErrorKind::ConnectionTimeout, message),
        Failure::Refused { status, body } => {
            let mut data = BadStatusErrorData::new();
            data.status = Some(status);
            data.body = Some(String::from_utf8_lossy(body.get(..MAX_BODY).unwrap_or(&body)).into_owned());
            Error::new(StatusCode::BAD_GATEWAY, ErrorKind::BadStatus(data), message)
        }
    }
}
