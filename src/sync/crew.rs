//! The crew: a rayon pool of fixed size that makes the sync requests of all accounts, and who gets its places.
//!
//! A request that is not answered holds its place for a whole timeout. So where the accounts ask for more places than there
//! are, one half of them is shared out evenly, and nobody else can have an account's share; the other half goes, in turn, to
//! those that answer: one place for each answer since the last request that was not answered.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::http::lock::lock;

/// A worker's stack: its deepest calls are TLS and JSON of a known shape.
const STACK_BYTES: usize = 512 << 10;
/// How long whoever waits for a place waits before it looks again whether it should give up.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The pool and its free places. A place is taken before a job is given to the pool, so no job waits behind others of
/// which nobody knows how long they take.
pub struct Crew {
    /// Each of its threads does our jobs until the crew is dismissed. Given one by one to rayon, jobs would have every idle
    /// thread look for them at every other, again and again before it sleeps: with 256 threads that is most of the work.
    _pool: rayon::ThreadPool,
    jobs: Arc<Jobs>,
    places: Mutex<Places>,
    /// Somebody waits who could have the next place that is left.
    wanted: AtomicBool,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Jobs {
    queue: Mutex<JobQueue>,
    given: Condvar,
}

#[derive(Default)]
struct JobQueue {
    jobs: VecDeque<Job>,
    dismissed: bool,
}

impl Jobs {
    fn give(&self, job: Job) {
        lock(&self.queue).jobs.push_back(job);
        self.given.notify_one();
    }

    /// The next job; nothing when the crew is dismissed.
    fn take(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            match queue.jobs.pop_front() {
                None if queue.dismissed => return None,
                None => queue = self.given.wait(queue).unwrap_or_else(PoisonError::into_inner),
                job => return job,
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        lock(&self.jobs.queue).dismissed = true;
        self.jobs.given.notify_all();
    }
}

impl Crew {
    /// A crew of so many threads.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn new(size: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(size)
            .stack_size(STACK_BYTES)
            .thread_name(|n| format!("worker-{n}"))
            .build()?;
        let jobs = Arc::new(Jobs::default());
        let shared = jobs.clone();
        pool.spawn_broadcast(move |_| {
            while let Some(job) = shared.take() {
                job();
            }
        });
        let (places, wanted) = (Mutex::new(Places::new(size)), AtomicBool::new(false));
        Ok(Self { _pool: pool, jobs, places, wanted })
    }

    /// A seat for an account that asks for at most so many places at once. All are to be there before the first is used:
    /// shares depend on how many there are.
    #[must_use]
    pub fn seat(self: &Arc<Self>, most: usize) -> Seat {
        let turn = Arc::new(Condvar::new());
        let id = lock(&self.places).join(most, turn.clone());
        Seat { crew: self.clone(), id, turn, most, answers: AtomicUsize::new(0) }
    }

    fn hand_out(&self, places: &mut Places) {
        places.hand_out();
        self.wanted.store(places.wanted(), Ordering::Relaxed);
    }
}

/// An account's part of the crew; left when dropped.
pub struct Seat {
    crew: Arc<Crew>,
    id: usize,
    /// Its waiting thread has been given a place.
    turn: Arc<Condvar>,
    most: usize,
    /// As its member has it, up to `most`.
    answers: AtomicUsize,
}

impl Seat {
    /// Takes a place, in turn; false when `given_up` says so before there is one. For one thread at a time.
    pub(super) fn take_place(&self, given_up: impl Fn() -> bool) -> bool {
        let mut places = lock(&self.crew.places);
        places.waiting.push_back(self.id);
        self.crew.hand_out(&mut places);
        loop {
            if std::mem::take(&mut places.members[self.id].granted) {
                return true;
            }
            if given_up() {
                places.waiting.retain(|other| *other != self.id);
                self.crew.hand_out(&mut places);
                return false;
            }
            let waited = self.turn.wait_timeout(places, LOOK_AGAIN);
            places = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn leave_place(&self) {
        let mut places = lock(&self.crew.places);
        places.leave(self.id);
        self.crew.hand_out(&mut places);
    }

    /// A request was answered, or has held its place for long without an answer.
    pub(super) fn answered(&self, answered: bool) {
        let answers = self.answers.load(Ordering::Relaxed);
        if answers == if answered { self.most } else { 0 } {
            return;
        }
        let mut places = lock(&self.crew.places);
        let answers = places.answered(self.id, answered);
        self.answers.store(answers, Ordering::Relaxed);
        self.crew.hand_out(&mut places);
    }

    /// Whether somebody waits who could have a place that is left now.
    pub(super) fn wanted(&self) -> bool {
        self.crew.wanted.load(Ordering::Relaxed)
    }

    /// Has a job done by a thread for which a place was taken.
    pub(super) fn give(&self, job: impl FnOnce() + Send + 'static) {
        self.crew.jobs.give(Box::new(job));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = lock(&self.crew.places);
        places.quit(self.id);
        self.crew.hand_out(&mut places);
    }
}

/// Who holds how many places, and who is next.
struct Places {
    size: usize,
    free: usize,
    /// By the ids of their seats; those that have quit stay, and ask for nothing.
    members: Vec<Member>,
    present: usize,
    /// What the members ask for at most, all together.
    asked: usize,
    /// Places that are held beyond their holders' shares.
    beyond: usize,
    /// Places that are held by members without an answer.
    unanswered: usize,
    waiting: VecDeque<usize>,
}

struct Member {
    most: usize,
    held: usize,
    /// Since the last request that was not answered; at most `most`.
    answers: usize,
    granted: bool,
    turn: Arc<Condvar>,
}

impl Places {
    fn new(size: usize) -> Self {
        let (members, waiting) = (Vec::new(), VecDeque::new());
        Self { size, free: size, members, present: 0, asked: 0, beyond: 0, unanswered: 0, waiting }
    }

    fn join(&mut self, most: usize, turn: Arc<Condvar>) -> usize {
        self.members.push(Member { most, held: 0, answers: 0, granted: false, turn });
        self.present += 1;
        self.asked += most;
        self.measure();
        self.members.len() - 1
    }

    fn quit(&mut self, id: usize) {
        self.present -= 1;
        self.asked -= self.members[id].most;
        self.measure();
    }

    /// Shares have changed.
    fn measure(&mut self) {
        let share = self.share();
        self.beyond = self.members.iter().map(|member| member.held.saturating_sub(share)).sum();
    }

    fn half(&self) -> usize {
        self.size.div_ceil(2)
    }

    /// There are places for all that is asked for.
    fn plenty(&self) -> bool {
        self.asked <= self.size
    }

    /// What each member can have for itself.
    fn share(&self) -> usize {
        if self.plenty() { self.size } else { (self.half() / self.present.max(1)).max(1) }
    }

    /// Whether a member may hold one more, if a place is left by somebody who answers.
    fn is_entitled(&self, id: usize) -> bool {
        let (member, share) = (&self.members[id], self.share());
        match member.held < share {
            // With more members than half the places, they have to take turns.
            true => self.plenty() || member.answers > 0 || self.unanswered < self.half(),
            false => member.held - share < member.answers,
        }
    }

    fn may_take(&self, id: usize) -> bool {
        let within = self.members[id].held < self.share() || self.beyond < self.size - self.half();
        within && self.is_entitled(id)
    }

    /// Gives the free places to those who wait and may have them, in turn.
    fn hand_out(&mut self) {
        while self.free > 0
            && let Some(next) = self.waiting.iter().position(|id| self.may_take(*id))
            && let Some(id) = self.waiting.remove(next)
        {
            let share = self.share();
            let member = &mut self.members[id];
            self.free -= 1;
            self.beyond += usize::from(member.held >= share);
            self.unanswered += usize::from(member.answers == 0);
            member.held += 1;
            member.granted = true;
            member.turn.notify_one();
        }
    }

    fn leave(&mut self, id: usize) {
        let share = self.share();
        let member = &mut self.members[id];
        self.free += 1;
        member.held -= 1;
        self.beyond -= usize::from(member.held >= share);
        self.unanswered -= if member.answers == 0 { 1 } else { 0 };
    }

    fn answered(&mut self, id: usize, answered: bool) -> usize {
        let member = &mut self.members[id];
        let answers = if answered { (member.answers + 1).min(member.most) } else { 0 };
        let before = std::mem::replace(&mut member.answers, answers);
        match (before, answers) {
            (0, 1..) => self.unanswered -= member.held,
            (1.., 0) => self.unanswered += member.held,
            _ => {}
        }
        answers
    }

    fn wanted(&self) -> bool {
        self.waiting.iter().any(|id| self.is_entitled(*id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_go_to_those_who_wait_in_turn_and_none_is_lost() {
        let crew = Arc::new(Crew::new(2).unwrap());
        let order = Mutex::new(Vec::new());
        let both = crew.seat(2);
        let seats: Vec<Seat> = (0..6).map(|_| crew.seat(1)).collect();
        both.answered(true);
        assert!(both.take_place(|| false) && both.take_place(|| false));
        assert!(!both.take_place(|| true), "whoever gives up has none");
        std::thread::scope(|scope| {
            for (n, seat) in seats.iter().enumerate() {
                let order = &order;
                seat.answered(true);
                scope.spawn(move || {
                    assert!(seat.take_place(|| false));
                    lock(order).push(n);
                    seat.leave_place();
                });
                // Each waits before the next one asks.
                while lock(&crew.places).waiting.len() < n + 1 {
                    std::thread::yield_now();
                }
            }
            assert!(both.wanted());
            both.leave_place();
        });
        assert_eq!(*lock(&order), (0..6).collect::<Vec<usize>>());
        both.leave_place();
        assert_eq!(lock(&crew.places).free, 2);
        assert!(!both.wanted());
    }

    /// So many places, and members that ask for 16 each.
    fn places(size: usize, members: usize) -> Places {
        let mut places = Places::new(size);
        (0..members).for_each(|_| _ = places.join(16, Arc::default()));
        places
    }

    /// Has it take all that it can have; gives how many it holds then.
    fn fill(places: &mut Places, id: usize) -> usize {
        for _ in places.members[id].held..places.members[id].most {
            places.waiting.push_back(id);
            places.hand_out();
        }
        places.waiting.retain(|other| *other != id);
        places.members[id].held
    }

    #[test]
    fn an_account_alone_and_few_accounts_have_all_their_places_at_once() {
        for members in [1, 16] {
            let mut places = places(256, members);
            assert!((0..members).all(|id| fill(&mut places, id) == 16));
        }
    }

    #[test]
    fn whoever_does_not_answer_keeps_its_share_and_no_more() {
        let mut places = places(256, 60);
        assert_eq!((0..60).map(|id| fill(&mut places, id)).sum::<usize>(), 2 * 60);
        (0..5).for_each(|_| _ = places.answered(7, true));
        assert_eq!(fill(&mut places, 7), 7, "one more for each answer");
        places.answered(7, false);
        (0..5).for_each(|_| places.leave(7));
        assert_eq!(fill(&mut places, 7), 2);
    }

    #[test]
    fn more_silent_accounts_than_half_the_places_take_no_more_than_that_half() {
        let mut places = places(256, 500);
        assert_eq!((0..499).map(|id| fill(&mut places, id)).sum::<usize>(), 128);
        places.answered(499, true);
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
                    0 => _ = places.answered(id, true),
                    1 => _ = places.answered(id, false),
                    2 if places.members[id].held > 0 => places.leave(id),
                    _ => _ = fill(&mut places, id),
                }
                places.hand_out();
                let held: usize = places.members.iter().map(|member| member.held).sum();
                prop_assert_eq!(held + places.free, 64);
                let silent = places.members.iter().filter(|member| member.answers == 0);
                prop_assert_eq!(silent.map(|member| member.held).sum::<usize>(), places.unanswered);
                let share = places.share();
                let beyond = places.members.iter().map(|member| member.held.saturating_sub(share));
                prop_assert_eq!(beyond.sum::<usize>(), places.beyond);
                let due: usize = places.members.iter().map(|member| share.saturating_sub(member.held)).sum();
                prop_assert!(places.free >= due, "{} free, {due} due to somebody", places.free);
            }
        }
    }
}
