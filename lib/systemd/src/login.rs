//! What the login manager (systemd-logind) knows of a user.

use std::time::Duration;

use zbus::proxy::CacheProperties;
use zbus::{OwnedObjectPath, connection, proxy};

/// Longest wait for an answer.
const CALL_LIMIT: Duration = Duration::from_secs(5);

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    /// Object of a user who is logged in, or who lingers.
    fn get_user(&self, uid: u32) -> zbus::Result<OwnedObjectPath>;
}

#[proxy(
    interface = "org.freedesktop.login1.User",
    default_service = "org.freedesktop.login1"
)]
trait User {
    /// Whether his services go on without a session.
    #[zbus(property)]
    fn linger(&self) -> zbus::Result<bool>;
}

/// Whether the services of the user with this id start at boot and go on when he has no session; `None` if there is no
/// login manager that knows him.
pub async fn lingers(uid: u32) -> Option<bool> {
    asked(uid).await.ok()
}

async fn asked(uid: u32) -> zbus::Result<bool> {
    let connection = connection::Builder::system()
        .method_timeout(CALL_LIMIT)
        .build()
        .await?;
    let path = ManagerProxy::new(&connection).await?.get_user(uid).await?;
    let user = UserProxy::builder(&connection)
        .path(path)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    user.linger().await
}
