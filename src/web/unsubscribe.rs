//! `GET` and `POST /_matrix/conduit/unsubscribe`: the page on which a user ends mails about messages.
//!
//! The link is in each of these mails, for the reader and for mail programs that have a button for it
//! ([RFC 8058](https://www.rfc-editor.org/rfc/rfc8058)); these send the form without having seen the page.

use http::{Response, StatusCode};

use super::{failed, html};
use crate::{
    error::Result,
    http::{Body, PageRequest, html::escape},
    server::Server,
    users::pushers::{self, Unsubscribe},
};

/// Asks whether the reader wants it.
pub async fn show_end_of_mails(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    let link = link(&page);
    if let Err(error) = pushers::unsubscribed(&server.keys, &link) {
        return failed("This link does not work", error);
    }
    let address = escape(&link.address);
    let body = format!(
        "<p>Shall no more mails about unread messages go to <strong>{address}</strong>?</p>\
         <form method=\"post\"><button>No more mails</button></form>"
    );
    Ok(html(StatusCode::OK, "No more mails", &body))
}

/// Ends the mails.
pub async fn submit_end_of_mails(server: &Server, page: PageRequest) -> Result<Response<Body>> {
    match pushers::unsubscribed(&server.keys, &link(&page)) {
        Ok((user, ids)) => {
            server.store.write(|tx| pushers::delete(tx, &user, &ids))?;
            let body = "<p>You can turn them on again in your client.</p>";
            Ok(html(StatusCode::OK, "No more mails will come", body))
        }
        Err(error) => failed("This link does not work", error),
    }
}

/// The form is sent to the address of the page, which says everything.
fn link(page: &PageRequest) -> Unsubscribe {
    serde_html_form::from_str(page.request.uri().query().unwrap_or_default()).unwrap_or_default()
}
