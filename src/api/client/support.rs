//! Whom users can ask for help.

use ruma::{
    UserId,
    api::client::discovery::discover_support::{Contact, ContactRole, Request, Response},
};

use crate::{
    api::auth::Anyone,
    error::{Error, Result},
    server::Server,
};

/// `GET /.well-known/matrix/support`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#getwell-knownmatrixsupport))
pub async fn get_wellknown_support(server: &Server, _: Anyone, _: Request) -> Result<Response> {
    let config = server.config();
    let support = &config.well_known.support;
    let role = ContactRole::from(support.role.as_str());
    let matrix_id = support.mxid.as_deref().and_then(|id| UserId::parse(id).ok());
    let contact = match (&support.email, matrix_id) {
        (Some(email), matrix_id) => {
            let mut contact = Contact::with_email_address(role, email.clone());
            contact.matrix_id = matrix_id;
            Some(contact)
        }
        (None, Some(matrix_id)) => Some(Contact::with_matrix_id(role, matrix_id)),
        (None, None) => None,
    };
    let page = support.page.as_ref().map(|page| page.as_str().to_owned());
    if contact.is_none() && page.is_none() {
        return Err(Error::not_found("This server names nobody to ask for help."));
    }
    let mut response = Response::with_contacts(contact.into_iter().collect());
    response.support_page = page;
    Ok(response)
}
