//! All checks, by what they look at.

mod disk;
mod files;
mod journal;
mod limits;
mod machine;
mod network;
mod remains;
mod running;
mod security;
mod settings;
mod systemd;
#[cfg(test)]
pub(super) mod testing;
mod user;

use super::check::Check;

/// In the order in which they are looked at: what others rest on comes first.
const ALL: [&[Check]; 12] = [
    systemd::CHECKS,
    user::CHECKS,
    machine::CHECKS,
    limits::CHECKS,
    disk::CHECKS,
    security::CHECKS,
    network::CHECKS,
    settings::CHECKS,
    remains::CHECKS,
    files::CHECKS,
    running::CHECKS,
    journal::CHECKS,
];

/// Every check.
pub(crate) fn all() -> impl Iterator<Item = &'static Check> {
    ALL.into_iter().flatten()
}
