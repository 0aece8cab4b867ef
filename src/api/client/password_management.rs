//! Changing a password, and setting a new one when it is forgotten.

use ruma::{
    OwnedUserId,
    api::client::account::{
        change_password::v3::{Request, Response},
        request_password_change_token_via_email as by_email, request_password_change_token_via_msisdn as by_msisdn,
    },
};

use crate::{
    api::{
        auth::{Anyone, User},
        uiaa::{self, Demand, Passed},
        validation::{self, Asked},
    },
    error::{Error, Result},
    server::Server,
    store::{Read, records::Purpose},
    users::{accounts, passwords, threepids, tokens, validations},
};

/// `POST /_matrix/client/v3/account/password`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountpassword))
///
/// Without an access token the old password alone shows whose it is, or a confirmed e-mail address.
pub async fn change_password(server: &Server, user: Option<User>, req: Request) -> Result<Response> {
    passwords::check_new(&req.new_password, server.config().password_min_length)?;
    let (id, validation) = match &user {
        Some(user) => {
            uiaa::check(server, user, "change the password", req.auth.as_ref()).await?;
            (user.id.clone(), None)
        }
        None => {
            let flows: &[_] =
                if server.mailer.is_configured() { &[uiaa::EMAIL, uiaa::PASSWORD] } else { &[uiaa::PASSWORD] };
            let operation = "change a password";
            let demand = Demand { operation, flows, purpose: Purpose::ResetPassword, ..Demand::default() };
            let passed = uiaa::run(server, &demand, req.auth.as_ref()).await?;
            (whose(&server.store.read(), &passed)?, passed.validation)
        }
    };
    let hash = server.passwords.hash(req.new_password).await?;
    server.store.write(|tx| {
        if let Some(sid) = &validation {
            validations::redeem(tx, sid)?;
        }
        accounts::set_password(tx, &id, hash, req.logout_devices, user.as_ref().map(|user| &*user.device))
    })?;
    Ok(Response::new())
}

/// Whose old password or e-mail address was shown.
fn whose(read: &dyn Read, passed: &Passed) -> Result<OwnedUserId> {
    if let Some(user) = &passed.user {
        return Ok(user.clone());
    }
    let sid = passed.validation.as_deref();
    let sid = sid.ok_or_else(|| Error::missing_param("Show your old password in the same request."))?;
    match threepids::find(read, threepids::EMAIL, &validations::address(read, sid)?)? {
        Some((_, account)) if account.locked => Err(tokens::locked()),
        Some((user, _)) => Ok(user),
        None => Err(Error::forbidden("No account has this e-mail address any more.")),
    }
}

/// `POST /_matrix/client/v3/account/password/email/requestToken`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountpasswordemailrequesttoken))
pub async fn request_token_to_reset_password_email(
    server: &Server,
    _: Anyone,
    req: by_email::v3::Request,
) -> Result<by_email::v3::Response> {
    let asked = Asked {
        purpose: Purpose::ResetPassword,
        email: &req.email,
        client_secret: req.client_secret.as_str(),
        send_attempt: req.send_attempt,
        next_link: req.next_link.as_deref(),
    };
    Ok(by_email::v3::Response::new(validation::request_token(server, &asked).await?))
}

/// `POST /_matrix/client/v3/account/password/msisdn/requestToken`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountpasswordmsisdnrequesttoken))
pub async fn request_token_to_reset_password_msisdn(
    _: &Server,
    _: Anyone,
    _: by_msisdn::v3::Request,
) -> Result<by_msisdn::v3::Response> {
    validation::no_text_messages()
}
