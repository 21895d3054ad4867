//! Which sessions hold a process. No I/O.

use runtime_core::{SessionId, Timestamp, WireError};
use runtime_store::Row;
use serde::{Deserialize, Serialize};

use super::record::corrupt;

/// A session's hold on a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The session.
    pub session: SessionId,
    /// Wake events of the process become inputs of this session. At most one live grant is so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owner: bool,
    /// Since when.
    pub granted: Timestamp,
    /// Until when; none while it is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

impl Grant {
    /// Says whether it holds.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.revoked.is_none()
    }
}

/// Which grants to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantFilter {
    /// Those that hold.
    Live,
    /// The revoked ones too.
    All,
}

/// All grants of one process, one for each session that ever held it, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Grants(pub(crate) Vec<Grant>);

impl Grants {
    pub(crate) fn decode(row: Option<&Row>) -> Result<Self, WireError> {
        match row {
            None => Ok(Self::default()),
            Some(row) => {
                serde_json::from_slice(&row.body).map_err(|error| corrupt(&row.key, error))
            }
        }
    }

    pub(crate) fn to_body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("grants are plain data")
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter().filter(|grant| grant.is_live())
    }

    pub(crate) fn holds(&self, session: &SessionId) -> bool {
        self.live().any(|grant| grant.session == *session)
    }

    pub(crate) fn owner(&self) -> Option<&SessionId> {
        let owner = self.live().find(|grant| grant.owner);
        owner.map(|grant| &grant.session)
    }

    /// Lets a session hold it. The first one to hold what nobody owns owns it.
    pub(crate) fn grant(&mut self, session: &SessionId, now: Timestamp) {
        let grant = Grant {
            session: session.clone(),
            owner: self.owner().is_none(),
            granted: now,
            revoked: None,
        };
        self.0.retain(|grant| grant.session != *session);
        self.0.push(grant);
    }

    /// Ends a session's hold; says whether there was one.
    pub(crate) fn revoke(&mut self, session: &SessionId, now: Timestamp) -> bool {
        let held = self.0.iter_mut();
        let mut held = held.filter(|grant| grant.is_live() && grant.session == *session);
        let Some(grant) = held.next() else {
            return false;
        };
        grant.revoked = Some(now);
        true
    }

    /// Gives a session's hold, and whether it owns, to another one; says whether it had one.
    pub(crate) fn transfer(&mut self, from: &SessionId, to: &SessionId, now: Timestamp) -> bool {
        let owns = self.owner() == Some(from);
        if !self.revoke(from, now) {
            return false;
        }
        if !self.holds(to) {
            self.grant(to, now);
        }
        for grant in &mut self.0 {
            if owns && grant.session == *to {
                grant.owner = true;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(index: u8) -> SessionId {
        SessionId::new(format!("s{index}")).expect("legal")
    }

    proptest! {
        /// E15: at most one owner, one entry for each session, and only live grants hold.
        #[test]
        fn e15_grants_have_one_owner_at_most(steps in prop::collection::vec((0..3u8, 0..4u8, 0..4u8), 0..40)) {
            let mut grants = Grants::default();
            for (time, (step, from, to)) in steps.into_iter().enumerate() {
                let now = Timestamp::from_millis(time as u64);
                let held = grants.holds(&session(from));
                match step {
                    0 if held => {}
                    0 => grants.grant(&session(from), now),
                    1 => prop_assert_eq!(grants.revoke(&session(from), now), held),
                    _ if from == to => {}
                    _ => {
                        let owned = grants.owner() == Some(&session(from));
                        prop_assert_eq!(grants.transfer(&session(from), &session(to), now), held);
                        if held {
                            prop_assert!(grants.holds(&session(to)));
                            prop_assert!(!grants.holds(&session(from)));
                            prop_assert!(!owned || grants.owner() == Some(&session(to)));
                        }
                    }
                }
                prop_assert!(grants.live().filter(|grant| grant.owner).count() <= 1);
                let mut sessions: Vec<_> = grants.0.iter().map(|grant| &grant.session).collect();
                sessions.sort();
                let before = sessions.len();
                sessions.dedup();
                prop_assert_eq!(before, sessions.len());
            }
        }
    }
}
