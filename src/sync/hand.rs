//! What this process has in hand: each campaign once, from the moment its task is handed out or claimed until what has come of it
//! is committed or of no use.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use crate::http::lock::lock;
use crate::platform::Campaign;

#[derive(Debug, Default)]
pub(super) struct Hand {
    campaigns: Mutex<HashSet<ById>>,
}

impl Hand {
    /// Takes a campaign in hand; nothing when it is there already.
    pub fn take(self: &Arc<Self>, campaign: &Arc<Campaign>) -> Option<Grip> {
        let new = lock(&self.campaigns).insert(ById(campaign.clone()));
        new.then(|| Grip { hand: self.clone(), campaign: campaign.clone() })
    }
}

/// A campaign in hand, until this is dropped.
#[derive(Debug)]
pub(super) struct Grip {
    hand: Arc<Hand>,
    campaign: Arc<Campaign>,
}

impl Drop for Grip {
    fn drop(&mut self) {
        lock(&self.hand.campaigns).remove(self.campaign.id.as_str());
    }
}

#[derive(Debug)]
struct ById(Arc<Campaign>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.as_str().hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_campaign_is_in_hand_once_and_again_when_it_was_let_go() {
        let campaign = |id: &str| {
            Arc::new(Campaign {
                id: id.into(),
                name: "n".into(),
                status: "active".into(),
                budget: "1".into(),
                impressions: 1,
                clicks: 1,
                conversions: 1,
                created_at: SystemTime::UNIX_EPOCH,
                extra: "{}".into(),
            })
        };
        let hand = Arc::new(Hand::default());
        let grip = hand.take(&campaign("a"));
        assert!(grip.is_some() && hand.take(&campaign("a")).is_none() && hand.take(&campaign("b")).is_some());
        drop(grip);
        assert!(hand.take(&campaign("a")).is_some());
    }
}
