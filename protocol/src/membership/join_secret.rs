//! The secret of an invite, and what its issuer remembers of it.
//!
//! The issuer keeps a hash, so that whoever reads its files can join nothing. The hash covers
//! federation and issuer: a secret is worth nothing anywhere else. A node that asks twice, because
//! the first answer was lost, uses up one place.

use std::{collections::BTreeMap, fmt};

use zeroize::Zeroizing;

use crate::{FederationId, NodeId, UnixTime, limits, version};

/// Length of a secret.
pub(super) const JOIN_SECRET_BYTES: usize = 16;

/// What a newcomer shows to its issuer. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret(Zeroizing<[u8; JOIN_SECRET_BYTES]>);

/// What an issuer knows a secret by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JoinSecretHash([u8; 32]);

/// One invite that can still be used, as its issuer stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenInvite {
    /// When it ends.
    pub expires: UnixTime,
    /// How many more nodes may use it.
    pub uses_left: u32,
    /// The nodes that have used it, in this order.
    pub used_by: Vec<NodeId>,
}

/// The open invites of an issuer.
#[derive(Debug, Clone, Default)]
pub struct OpenInvites {
    by_secret: BTreeMap<JoinSecretHash, OpenInvite>,
}

/// Why an invite was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenInvitesError {
    /// There are as many as there may be.
    #[error(
        "there are {} open invites already; wait until one expires",
        limits::OPEN_INVITES_MAX
    )]
    TooMany,
    /// None, or more than one invite may have.
    #[error("an invite has 1 to {} uses", limits::INVITE_USES_MAX)]
    Uses,
    /// It has ended already, or ends too late.
    #[error("an invite must end within 90 days")]
    Expiry,
}

/// Why a secret lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedeemError {
    /// No invite of this issuer has this secret. It may have expired a while ago.
    #[error("this node made no such invite, or it has expired; ask for a new one")]
    Unknown,
    /// It has ended.
    #[error("the invite has expired; ask for a new one")]
    Expired,
    /// As many have used it as may.
    #[error("the invite has been used up; ask for a new one")]
    Spent,
}

impl JoinSecret {
    /// Takes a secret's bytes, which must come from a secure random source.
    pub fn from_bytes(bytes: [u8; JOIN_SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8; JOIN_SECRET_BYTES] {
        &self.0
    }

    /// Returns what an issuer knows it by.
    pub fn hash(&self, federation: &FederationId, issuer: &NodeId) -> JoinSecretHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(version::JOIN_SECRET_DOMAIN);
        hasher.update(federation.as_bytes());
        hasher.update(issuer.as_bytes());
        hasher.update(self.as_bytes());
        JoinSecretHash(*hasher.finalize().as_bytes())
    }
}

/// Never the secret.
impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(***)")
    }
}

impl JoinSecretHash {
    /// Takes a stored hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl OpenInvites {
    /// Starts with what was stored.
    pub fn restore(stored: impl IntoIterator<Item = (JoinSecretHash, OpenInvite)>) -> Self {
        let by_secret = stored.into_iter().take(limits::OPEN_INVITES_MAX).collect();
        Self { by_secret }
    }

    /// Opens an invite. It must be stored before it is shown to anybody.
    ///
    /// # Errors
    /// When there are too many, or it is out of bounds.
    pub fn open(
        &mut self,
        secret: JoinSecretHash,
        uses: u32,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<(), OpenInvitesError> {
        self.forget_expired(now);
        let life = expires.since(now);
        if life.is_zero() || life > limits::INVITE_LIFE_MAX {
            return Err(OpenInvitesError::Expiry);
        }
        if !(1..=limits::INVITE_USES_MAX).contains(&uses) {
            return Err(OpenInvitesError::Uses);
        }
        if self.by_secret.len() >= limits::OPEN_INVITES_MAX {
            return Err(OpenInvitesError::TooMany);
        }
        let invite = OpenInvite {
            expires,
            uses_left: uses,
            used_by: Vec::new(),
        };
        self.by_secret.insert(secret, invite);
        Ok(())
    }

    /// Lets a node in that has shown a secret, once. What is returned must be stored before the
    /// node is given a certificate.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn redeem(
        &mut self,
        secret: &JoinSecretHash,
        node: &NodeId,
        now: UnixTime,
    ) -> Result<&OpenInvite, RedeemError> {
        let invite = self.by_secret.get_mut(secret).ok_or(RedeemError::Unknown)?;
        if invite.expires <= now {
            return Err(RedeemError::Expired);
        }
        if !invite.used_by.contains(node) {
            invite.uses_left = invite.uses_left.checked_sub(1).ok_or(RedeemError::Spent)?;
            invite.used_by.push(*node);
        }
        Ok(invite)
    }

    /// Ends an invite before its time. Whether there was one.
    pub fn close(&mut self, secret: &JoinSecretHash) -> bool {
        self.by_secret.remove(secret).is_some()
    }

    /// Ends all invites, as is done when a backup is restored: some of them may have been used
    /// since it was made. Returns what to delete from the store.
    pub fn void_all(&mut self) -> Vec<JoinSecretHash> {
        std::mem::take(&mut self.by_secret).into_keys().collect()
    }

    /// Forgets what has ended, and returns what to delete from the store.
    pub fn forget_expired(&mut self, now: UnixTime) -> Vec<JoinSecretHash> {
        let expired = self
            .by_secret
            .extract_if(.., |_, invite| invite.expires <= now);
        expired.map(|(secret, _)| secret).collect()
    }

    /// Returns the open invites.
    pub fn iter(&self) -> impl Iterator<Item = (&JoinSecretHash, &OpenInvite)> {
        self.by_secret.iter()
    }
}
