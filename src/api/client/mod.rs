//! The Client-Server API: one file for each of the specification's `data/api/client-server/*.yaml`, one function for each
//! of its operations, named alike.

pub mod account_data;
pub mod administrative_contact;
pub mod capabilities;
pub mod device_management;
pub mod filter;
pub mod login;
pub mod login_token;
pub mod logout;
pub mod openid;
pub mod password_management;
pub mod pusher;
pub mod refresh;
pub mod registration;
pub mod registration_tokens;
pub mod support;
pub mod tags;
pub mod versions;
pub mod voip;
pub mod wellknown;
pub mod whoami;
