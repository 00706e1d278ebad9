//! Who belongs to a federation: certificates, what takes them back, and how one comes to one.
//!
//! The root key of a federation is its id and lies in a file of its own. It signs *issuers*, and
//! issuers (or the root itself) sign *members*, for 72 hours at most. A peer shows a
//! [`Membership`], its certificate and its issuer's, before it is answered anything else; the
//! connection has proved already that it holds the key of its peer id. What a certificate grants
//! is taken back by [`Revocations`], a set that all members come to share. A newcomer has an
//! [`Invite`] with a [`JoinSecret`], which the issuer that made it exchanges for a certificate.
//!
//! All of this is told the time. `docs/protocol/membership.md` has the bytes and the rules.

mod address;
mod certificate;
mod exchange;
mod hello;
mod invite;
mod join_secret;
mod revocation;
mod revocations;

pub use address::{BootstrapAddress, InvalidAddress};
pub use certificate::{
    Certificate, Issuer, Member, Membership, MembershipError, Presented, Rights,
};
pub use exchange::RevocationBatch;
pub use hello::{Hello, Introduction, JoinAnswer, JoinRefusal, JoinRequest};
pub use invite::{INVITE_PREFIX, Invite, InviteError};
pub use join_secret::{
    JoinSecret, JoinSecretHash, OpenInvite, OpenInvites, OpenInvitesError, RedeemError,
};
pub use revocation::{Revocation, Statement};
pub use revocations::{Merged, RevocationError, RevocationSummary, Revocations};
