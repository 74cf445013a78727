//! Who may have how many of the workers. A request that is not answered holds its worker for a whole timeout. So where the
//! accounts ask for more workers than there are, one half of them is shared out evenly, and no account can have another's
//! share; the other half goes to those that answer: one worker for each answer since the last request that was not answered.

use std::collections::BTreeMap;

/// Who holds how many workers.
#[derive(Debug)]
pub(super) struct Places {
    size: usize,
    /// By account.
    members: BTreeMap<usize, Member>,
    /// What the members ask for at most, all together.
    asked: usize,
    /// Workers that are held by accounts without an answer.
    unanswered: usize,
    /// Workers that are held beyond their holders' shares.
    beyond: usize,
}

#[derive(Debug)]
struct Member {
    most: usize,
    held: usize,
    /// Since the last request that was not answered; at most `most`.
    answers: usize,
}

impl Places {
    pub(super) fn new(size: usize) -> Self {
        Self { size, members: BTreeMap::new(), asked: 0, unanswered: 0, beyond: 0 }
    }

    #[cfg(test)]
    fn free(&self) -> usize {
        self.size.saturating_sub(self.members.values().map(|member| member.held).sum())
    }

    /// One more account, which asks for at most this many.
    pub(super) fn join(&mut self, id: usize, most: usize) {
        self.asked += most;
        self.members.insert(id, Member { most, held: 0, answers: 0 });
        self.measure();
    }

    /// An account asks for none any more.
    pub(super) fn quit(&mut self, id: usize) {
        let Some(member) = self.members.remove(&id) else { return };
        self.asked -= member.most;
        if member.answers == 0 {
            self.unanswered -= member.held;
        }
        self.measure();
    }

    /// Shares have changed.
    fn measure(&mut self) {
        let share = self.share();
        self.beyond = self.members.values().map(|member| member.held.saturating_sub(share)).sum();
    }

    fn half(&self) -> usize {
        self.size.div_ceil(2)
    }

    /// There are enough for all that is asked for.
    fn plenty(&self) -> bool {
        self.asked <= self.size
    }

    /// What each account can have for itself.
    fn share(&self) -> usize {
        if self.plenty() { self.size } else { (self.half() / self.members.len().max(1)).max(1) }
    }

    /// How many more an account may have, of `free` ones.
    pub(super) fn allowed(&self, id: usize, free: usize) -> usize {
        if self.plenty() {
            return free;
        }
        let (share, Some(member)) = (self.share(), self.members.get(&id)) else { return 0 };
        let own = share.saturating_sub(member.held);
        if member.answers == 0 {
            // With more accounts than half the workers, the silent ones have to take turns.
            return own.min(self.half().saturating_sub(self.unanswered)).min(free);
        }
        // What nobody has for itself goes to those that answer.
        let kept = (self.size - self.half()).saturating_sub(self.beyond);
        let more = member.answers.saturating_sub(member.held.saturating_sub(share));
        (own + more.min(kept)).min(free)
    }

    /// It has these.
    pub(super) fn take(&mut self, id: usize, count: usize) {
        let share = self.share();
        let Some(member) = self.members.get_mut(&id) else { return };
        self.beyond -= member.held.saturating_sub(share);
        member.held += count;
        self.beyond += member.held.saturating_sub(share);
        if member.answers == 0 {
            self.unanswered += count;
        }
    }

    /// It has given one back, after requests that were answered or not.
    pub(super) fn leave(&mut self, id: usize, answered: bool) {
        let share = self.share();
        let Some(member) = self.members.get_mut(&id) else { return };
        let (held, answers) = (member.held, member.answers);
        member.held = held.saturating_sub(1);
        member.answers = if answered { (answers + 1).min(member.most) } else { 0 };
        self.beyond -= held.saturating_sub(share) - member.held.saturating_sub(share);
        self.unanswered -= if answers == 0 { held } else { 0 };
        self.unanswered += if member.answers == 0 { member.held } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(size: usize, members: usize) -> Places {
        let mut places = Places::new(size);
        (0..members).for_each(|id| places.join(id, 16));
        places
    }

    /// Has it take all that it can have; gives how many it holds then.
    fn fill(places: &mut Places, id: usize) -> usize {
        let wanted = places.members[&id].most - places.members[&id].held;
        let count = places.allowed(id, places.free()).min(wanted);
        places.take(id, count);
        places.members[&id].held
    }

    #[test]
    fn an_account_alone_and_few_accounts_have_all_they_ask_for_at_once() {
        for members in [1, 16] {
            let mut places = places(256, members);
            assert!((0..members).all(|id| fill(&mut places, id) == 16));
        }
    }

    #[test]
    fn whoever_does_not_answer_keeps_its_share_and_no_more() {
        let mut places = places(256, 60);
        assert_eq!((0..60).map(|id| fill(&mut places, id)).sum::<usize>(), 2 * 60);
        (0..2).for_each(|_| places.leave(7, true));
        assert_eq!(fill(&mut places, 7), 4, "one more for each answer");
        places.leave(7, false);
        (0..3).for_each(|_| places.leave(7, false));
        assert_eq!(fill(&mut places, 7), 2);
    }

    #[test]
    fn more_silent_accounts_than_half_the_workers_take_no_more_than_that_half() {
        let mut places = places(256, 500);
        assert_eq!((0..499).map(|id| fill(&mut places, id)).sum::<usize>(), 128);
        places.members.get_mut(&499).unwrap().answers = 1;
        assert_eq!(fill(&mut places, 499), 2);
    }

    proptest! {
        #[test]
        fn nothing_that_the_others_do_takes_an_accounts_share(
            deeds in prop::collection::vec((0_usize..30, 0_u8..4), 0..600),
        ) {
            let mut places = places(64, 30);
            for (id, deed) in deeds {
                match deed {
                    0 | 1 if places.members[&id].held > 0 => places.leave(id, deed == 0),
                    _ => _ = fill(&mut places, id),
                }
                let free = places.free();
                let share = places.share();
                let due: usize = places.members.values().map(|member| share.saturating_sub(member.held)).sum();
                prop_assert!(free >= due, "{free} free, {due} due to somebody");
            }
        }
    }
}
