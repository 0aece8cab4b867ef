//! [Server administration](https://spec.matrix.org/latest/client-server-api/#server-administration): looking at a user's
//! sessions, locking and suspending accounts.
//!
//! Whether the caller is an administrator is checked before anything is looked up, so that nobody else learns who has an
//! account.

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt, UserId,
    api::client::admin::{get_user_info, is_user_locked, is_user_suspended, lock_user, suspend_user},
};

use crate::{
    api::auth::User,
    error::{Error, Result},
    server::Server,
    store::{Read, records::Account},
    users::{accounts, devices},
};

/// `GET /_matrix/client/v3/admin/whois/{userId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3adminwhoisuserid)); users may look at
/// themselves, administrators at everybody.
pub async fn get_who_is(
    server: &Server,
    user: User,
    req: get_user_info::v3::Request,
) -> Result<get_user_info::v3::Response> {
    let read = server.store.read();
    if user.id != req.user_id {
        user.require_admin(&read)?;
    }
    accounts::require(&read, &req.user_id)?;
    let mut response = get_user_info::v3::Response::new();
    for row in devices::all(&read, &req.user_id) {
        let (id, device) = row?;
        let mut connection = get_user_info::v3::ConnectionInfo::new();
        connection.ip = device.last_seen_ip;
        connection.last_seen = device.last_seen_ts.map(|ms| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms)));
        let mut session = get_user_info::v3::SessionInfo::new();
        session.connections.push(connection);
        let mut info = get_user_info::v3::DeviceInfo::new();
        info.sessions.push(session);
        response.devices.insert(id.into(), info);
    }
    response.user_id = Some(req.user_id);
    Ok(response)
}

/// `GET /_matrix/client/v1/admin/lock/{userId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1adminlockuserid))
pub async fn get_admin_lock_user(
    server: &Server,
    user: User,
    req: is_user_locked::v1::Request,
) -> Result<is_user_locked::v1::Response> {
    let account = look_at(server, &user, &req.user_id)?;
    Ok(is_user_locked::v1::Response::new(account.locked))
}

/// `PUT /_matrix/client/v1/admin/lock/{userId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv1adminlockuserid))
pub async fn set_admin_lock_user(
    server: &Server,
    user: User,
    req: lock_user::v1::Request,
) -> Result<lock_user::v1::Response> {
    change(server, &user, &req.user_id, |account| account.locked = req.locked)?;
    Ok(lock_user::v1::Response::new(req.locked))
}

/// `GET /_matrix/client/v1/admin/suspend/{userId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1adminsuspenduserid))
pub async fn get_admin_suspend_user(
    server: &Server,
    user: User,
    req: is_user_suspended::v1::Request,
) -> Result<is_user_suspended::v1::Response> {
    let account = look_at(server, &user, &req.user_id)?;
    Ok(is_user_suspended::v1::Response::new(account.suspended))
}

/// `PUT /_matrix/client/v1/admin/suspend/{userId}`
/// ([spec](https://spec.matrix.org/latest/client-server-api/#put_matrixclientv1adminsuspenduserid))
pub async fn set_admin_suspend_user(
    server: &Server,
    user: User,
    req: suspend_user::v1::Request,
) -> Result<suspend_user::v1::Response> {
    change(server, &user, &req.user_id, |account| account.suspended = req.suspended)?;
    Ok(suspend_user::v1::Response::new(req.suspended))
}

fn look_at(server: &Server, user: &User, target: &UserId) -> Result<Account> {
    let read = server.store.read();
    user.require_admin(&read)?;
    require_local(server, target)?;
    require_active(&read, target)
}

fn require_active(read: &dyn Read, target: &UserId) -> Result<Account> {
    let account = accounts::require(read, target)?;
    if account.deactivated { Err(Error::not_found("This account was deactivated.")) } else { Ok(account) }
}

/// Changes the account of somebody else who is no administrator: those could not undo it themselves.
fn change(server: &Server, user: &User, target: &UserId, change: impl FnOnce(&mut Account)) -> Result<()> {
    server.store.write(|tx| {
        user.require_admin(tx)?;
        require_local(server, target)?;
        if require_active(tx, target)?.admin {
            return Err(Error::forbidden("Accounts of administrators cannot be locked or suspended."));
        }
        accounts::update(tx, target, change)?;
        tx.wake(target);
        Ok(())
    })
}

fn require_local(server: &Server, target: &UserId) -> Result<()> {
    match target.server_name() == server.name() {
        true => Ok(()),
        false => Err(Error::invalid_param(format!("{target} is no user of this server."))),
    }
}
