//! All properties of an object in one call: one after the other each costs a way over the bus and back, and asked
//! together they could be more calls under way than the bus allows a connection.

use std::collections::HashMap;

use zbus::names::InterfaceName;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

/// What all units have.
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// What only services have.
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// The properties of an object, by name.
#[derive(Debug)]
pub(super) struct Properties(HashMap<String, OwnedVariant>);

impl Properties {
    /// Those that the object at `path` has as an `interface`.
    ///
    /// # Errors
    /// That of the call.
    pub(super) async fn read(
        connection: &Connection,
        path: OwnedObjectPath,
        interface: &'static str,
    ) -> zbus::Result<Self> {
        let proxy = zbus::fdo::PropertiesProxy::builder(connection)
            .destination("org.freedesktop.systemd1")
            .path(path)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        Ok(Self(proxy.get_all(InterfaceName::try_from(interface)?).await?))
    }

    /// The property `name`.
    ///
    /// # Errors
    /// This systemd has none, or one of another type.
    pub(super) fn take<T>(&mut self, name: &'static str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let value = self.0.remove(name).ok_or(zbus::Error::MissingParameter(name))?;
        T::try_from(value).map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_have_types_and_may_be_missing() {
        let mut all = Properties(HashMap::new());
        all.0.insert("MainPID".to_owned(), OwnedVariant::from(7_u32));
        all.0.insert("NRestarts".to_owned(), OwnedVariant::from(1_u32));
        assert_eq!(all.take::<u32>("MainPID").expect("there"), 7);
        all.take::<u32>("MainPID").expect_err("taken");
        all.take::<String>("NRestarts").expect_err("a number");
    }
}
