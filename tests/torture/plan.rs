//! What a schedule is, drawn from its seed: the platform's behaviour, the network's, the database's, and what befalls the
//! processes when.

use std::time::Duration;

use mock_api::settings::ExpiresIn;
use mock_api::{Faults, Hint, Settings};

use crate::chance::Chance;
use crate::field::{Field, Lock};
use crate::network::{Mood, Rates};

/// Faults begin with the processes and end at this time.
pub const HORIZON: Duration = Duration::from_millis(1_200);

/// A process that is this patient gives nothing up here.
pub const PATIENT: Duration = Duration::from_secs(40);

/// A schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub platform_is_bad: bool,
    pub settings: Settings,
    /// Whether the program is told the rate limit.
    pub told: bool,
    pub workers: u64,
    pub page_size: u64,
    pub timeout: Duration,
    pub attempts: u64,
    pub give_up_after: Duration,
    pub processes: usize,
    pub api: Rates,
    pub database: Rates,
    /// The share of the database's writes that fail.
    pub refused_writes: f64,
    /// By time.
    pub events: Vec<(Duration, Event)>,
    pub outputs: Outputs,
    pub field: Field,
    pub begin: Begin,
    pub leave: Leave,
    pub after: After,
}

/// What happens at some moment; processes by number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    Api(Mood),
    Database(Mood),
    ApiOutage(Duration),
    RevokeTokens,
    CutConnections,
    CrashDatabase,
    /// The clock of the database's machine jumps by so many seconds.
    DatabaseClock(i64),
    /// That of the processes' machine shows so many seconds more than the true time.
    OwnClock(i64),
    /// All leases end, as if nobody had been heard of for long.
    EndLeases,
    Stop(usize),
    Continue(usize),
    Kill(usize),
    Interrupt(usize),
    /// Another process joins; it abandons the open run if so told.
    Join {
        fresh: bool,
    },
    /// `retry` is called beside what runs.
    Retry,
    /// A stranger locks something.
    Lock(Lock),
    /// All such locks end.
    Unlock,
}

/// What the processes are told to write besides, and for whom.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs {
    pub metrics: bool,
    pub traces: bool,
    pub json_logs: bool,
    /// Another account in the same process, on a platform without faults.
    pub neighbour: bool,
}

/// What was there before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Begin {
    Empty,
    /// A whole run of another revision of the campaigns.
    Older,
}

/// What becomes of processes that still run when the faults have ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Leave {
    Alone,
    Interrupted,
    Killed,
}

/// What is done when everything is synced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum After {
    Nothing,
    Retry,
    /// The campaigns change, and are synced again; so that a process of the run before that was asleep all the time wakes
    /// in the middle.
    Newer,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let mut plan = Self::calm(seed, &mut chance);
        let themes: [fn(&mut Self, &mut Chance); 8] = [
            Self::bad_platform,
            Self::bad_tokens,
            Self::rate_limited,
            Self::bad_api_network,
            Self::bad_database_network,
            Self::bad_database,
            Self::bad_leases,
            Self::bad_processes,
        ];
        // Now and then one theme alone: what must hold then is stricter.
        let only = usize::try_from(chance.number(0, 2 * themes.len() as u64 - 1)).unwrap();
        for (number, theme) in themes.into_iter().enumerate() {
            if number == only || (only >= themes.len() && chance.happens(0.4)) {
                theme(&mut plan, &mut chance);
            }
        }
        if only < themes.len() {
            plan.leave = Leave::Alone;
        }
        plan.draw_apart(only < themes.len());
        Field::befall(&mut plan);
        plan.hurry();
        plan.events.sort_by_key(|(at, _)| *at);
        plan
    }

    /// No slower than needed: a schedule is to take a second or two.
    fn hurry(&mut self) {
        let turns = u32::try_from(u64::from(self.settings.campaigns).div_ceil(self.workers)).unwrap();
        self.settings.sync_latency = self.settings.sync_latency.min(Duration::from_millis(600) / turns);
    }

    /// Draws of their own, so that older seeds stay what they are.
    fn draw_apart(&mut self, alone: bool) {
        let mut chance = Chance::new(self.seed ^ (0xc10c << 32));
        self.outputs = Outputs {
            metrics: chance.happens(0.3),
            traces: chance.happens(0.25),
            json_logs: chance.happens(0.25),
            neighbour: chance.happens(0.15),
        };
        if chance.happens(0.1) {
            for _ in 0..chance.number(2, 6) {
                let jump = Event::OwnClock(some_jump(&mut chance));
                self.some_time(&mut chance, jump);
            }
        }
        // An unknown limit is learned from the database's own account of time: a jump in the middle of that makes it another
        // limit, for a day.
        let learns = self.settings.rate_limit.is_some() && !self.told;
        if !alone && chance.happens(0.2) && !learns {
            for _ in 0..chance.number(1, 3) {
                let jump = Event::DatabaseClock(some_jump(&mut chance));
                self.some_time(&mut chance, jump);
            }
        }
    }

    fn calm(seed: u64, chance: &mut Chance) -> Self {
        let campaigns = u32::try_from(chance.number(12, 45)).unwrap();
        let mut settings = Settings::fast(campaigns);
        settings.seed = seed;
        settings.sync_latency = chance.millis(0, 80);
        settings.list_latency = chance.millis(0, 40);
        settings.odd = chance.happens(0.15);
        settings.revision = 1;
        let faults = &mut settings.faults;
        faults.duplicates = chance.happens(0.2);
        faults.repeated_page = if chance.happens(0.15) { chance.number(1, 4) } else { 0 };
        // Not both: two pages in a row without anything new are taken for a listing without an end.
        let empty = faults.repeated_page == 0 && chance.happens(0.15);
        faults.empty_page = if empty { chance.number(1, 4) } else { 0 };
        faults.most_per_page = if chance.happens(0.1) { 4 } else { 0 };
        Self {
            seed,
            platform_is_bad: false,
            settings,
            told: false,
            workers: chance.of(&[1, 2, 4, 8, 16, 24]),
            page_size: chance.of(&[3, 7, 10, 10, 25, 100]),
            timeout: Duration::from_secs(5),
            attempts: chance.number(3, 8),
            give_up_after: PATIENT,
            processes: usize::try_from(chance.of(&[1, 1, 2, 3])).unwrap(),
            api: Rates::default(),
            database: Rates::default(),
            refused_writes: 0.0,
            outputs: Outputs::default(),
            field: Field::default(),
            events: Vec::new(),
            begin: if chance.happens(0.25) { Begin::Older } else { Begin::Empty },
            leave: chance.of(&[Leave::Alone, Leave::Alone, Leave::Interrupted, Leave::Killed]),
            after: chance.of(&[After::Nothing, After::Nothing, After::Retry, After::Newer]),
        }
    }

    fn bad_platform(&mut self, chance: &mut Chance) {
        self.platform_is_bad = true;
        if chance.happens(0.3) {
            self.timeout = chance.millis(400, 900);
        }
        let hang = chance.millis(100, 1_100);
        let faults = &mut self.settings.faults;
        let mut rate = |most: f64| if chance.happens(0.35) { chance.share(most) } else { 0.0 };
        faults.hang = (rate(0.05), hang);
        faults.reset = rate(0.1);
        faults.cut_body = rate(0.1);
        faults.reset_in_body = rate(0.1);
        faults.drip = (rate(0.05), Duration::from_millis(1));
        faults.html = rate(0.1);
        faults.other_json = rate(0.1);
        faults.server_error = rate(0.2);
        faults.endless_body = rate(0.02);
        faults.endless_headers = rate(0.02);
        faults.gzip_bomb = rate(0.02);
        faults.redirect = Some((rate(0.1), "http://127.0.0.1:9/auth/token".into()));
        faults.on_tokens = chance.happens(0.5);
        faults.refused_every = if chance.happens(0.3) { 11 } else { 0 };
        faults.forbidden_every = if chance.happens(0.2) { 13 } else { 0 };
        faults.poisoned_every = if chance.happens(0.2) { 17 } else { 0 };
        faults.hanging_every = (if chance.happens(0.1) { 19 } else { 0 }, hang);
        faults.endless = chance.happens(0.1);
        self.settings.list_503_every = if chance.happens(0.3) { 5 } else { 0 };
        if chance.happens(0.3) {
            let outage = Event::ApiOutage(chance.millis(50, 700));
            faults.outage_closes = false;
            self.some_time(chance, outage);
        }
        if chance.happens(0.2) {
            self.give_up_after = chance.millis(500, 2_000);
        }
    }

    fn bad_tokens(&mut self, chance: &mut Chance) {
        // Many with the same token at the same time, for long enough to have stopped looking for a rate limit.
        self.workers = chance.of(&[16, 24]);
        self.page_size = chance.of(&[25, 100]);
        self.settings.faults.most_per_page = 0;
        self.settings.sync_latency = chance.millis(5, 20);
        self.settings.campaigns = u32::try_from(chance.number(150, 300)).unwrap();
        match chance.number(0, 3) {
            0 => self.settings.token_lifetime = chance.millis(300, 3_000),
            1 => {
                for _ in 0..chance.number(3, 8) {
                    self.some_time(chance, Event::RevokeTokens);
                }
            }
            _ => self.settings.faults.revoke_every = chance.number(25, 60),
        }
        self.settings.expires_in = chance.of(&[
            ExpiresIn::Honest,
            ExpiresIn::Honest,
            ExpiresIn::Absent,
            ExpiresIn::Fixed(0.0),
            ExpiresIn::Fixed(-1.0),
            ExpiresIn::Fixed(1e300),
        ]);
    }

    fn rate_limited(&mut self, chance: &mut Chance) {
        let limit = u32::try_from(chance.number(8, 25)).unwrap();
        self.settings.rate_limit = Some((limit, chance.millis(700, 1_000)));
        self.settings.campaigns = limit + u32::try_from(chance.number(2, u64::from(limit))).unwrap();
        self.settings.odd = false;
        self.told = chance.happens(0.6);
        if self.told {
            // Enough hands to send too much, if that were not forbidden.
            self.workers = chance.of(&[16, 24]);
            self.settings.sync_latency = chance.millis(0, 20);
            self.page_size = chance.of(&[10, 25]);
            self.settings.faults.most_per_page = 0;
        }
        self.settings.hint = chance.of(&[
            Hint::Body,
            Hint::Body,
            Hint::Seconds,
            Hint::Date,
            Hint::RateLimit,
            Hint::XDelta,
            Hint::XEpoch,
            Hint::None,
        ]);
    }

    fn bad_api_network(&mut self, chance: &mut Chance) {
        self.api = rates(chance, 0.15);
        if chance.happens(0.3) {
            self.timeout = chance.millis(400, 900);
        }
        self.some_mood(chance, Event::Api);
    }

    fn bad_database_network(&mut self, chance: &mut Chance) {
        self.database = rates(chance, 0.03);
        self.some_mood(chance, Event::Database);
    }

    fn bad_database(&mut self, chance: &mut Chance) {
        self.refused_writes = chance.share(0.25);
        for _ in 0..chance.number(0, 3) {
            self.some_time(chance, Event::CutConnections);
        }
        if chance.happens(0.12) {
            self.some_time(chance, Event::CrashDatabase);
        }
        if chance.happens(0.2) {
            self.give_up_after = chance.millis(500, 2_000);
        }
    }

    fn bad_leases(&mut self, chance: &mut Chance) {
        self.settings.sync_latency = chance.millis(20, 90);
        for _ in 0..chance.number(1, 3) {
            self.some_time(chance, Event::EndLeases);
        }
        for _ in 0..chance.number(0, 2) {
            let who = usize::try_from(chance.number(0, 2)).unwrap();
            let (from, length) = (chance.millis(100, 900), chance.millis(20, 1_000));
            self.events.push((from, Event::Stop(who)));
            if chance.happens(0.6) {
                self.events.push((from + Duration::from_millis(5), Event::EndLeases));
            }
            self.events.push((from + length, Event::Continue(who)));
        }
    }

    fn bad_processes(&mut self, chance: &mut Chance) {
        for _ in 0..chance.number(1, 4) {
            let who = usize::try_from(chance.number(0, 2)).unwrap();
            let fresh = chance.happens(0.3);
            let event = chance.of(&[
                Event::Kill(who),
                Event::Kill(who),
                Event::Interrupt(who),
                Event::Join { fresh },
            ]);
            self.some_time(chance, event);
        }
    }

    fn some_time(&mut self, chance: &mut Chance, event: Event) {
        self.events.push((chance.millis(50, 1_150), event));
    }

    fn some_mood(&mut self, chance: &mut Chance, event: fn(Mood) -> Event) {
        if chance.happens(0.5) {
            let (from, length) = (chance.millis(0, 1_000), chance.millis(20, 600));
            self.events.push((from, event(chance.of(&[Mood::Refusing, Mood::BlackHole]))));
            self.events.push((from + length, event(Mood::Calm)));
        }
    }

    /// The faults that stay when all others end: those that shape pages, which must not change within a run, and those
    /// that are a campaign's own.
    pub fn lasting_faults(&self) -> Faults {
        let faults = &self.settings.faults;
        Faults {
            duplicates: faults.duplicates,
            repeated_page: faults.repeated_page,
            empty_page: faults.empty_page,
            most_per_page: faults.most_per_page,
            refused_every: faults.refused_every,
            forbidden_every: faults.forbidden_every,
            ..Faults::default()
        }
    }

    /// Whether this event is planned.
    pub fn has(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }

    /// Whether answers may be lost, or come too late, on their way to the program.
    pub fn loses_replies(&self) -> bool {
        self.api != Rates::default()
            || self.has(|event| matches!(event, Event::Api(_) | Event::Stop(_)))
            || self.settings.faults.drip.0 > 0.0
            || self.timeout < Duration::from_secs(5)
    }

    /// Whether the database forgets what was sent: nobody else knows it.
    pub fn clock_leaps(&self) -> bool {
        self.has(|event| matches!(event, Event::DatabaseClock(1..)))
    }

    /// Whether the database or the way to it is bad.
    pub fn harms_database(&self) -> bool {
        self.database != Rates::default()
            || self.refused_writes > 0.0
            || self.field.refused.is_some()
            || self.has(|event| {
                matches!(
                    event,
                    Event::Database(_) | Event::CutConnections | Event::CrashDatabase | Event::Lock(_)
                )
            })
    }

    /// Whether there are other accounts in the same process.
    pub fn has_others(&self) -> bool {
        self.outputs.neighbour || self.field.hanging > 0
    }

    /// Whether single syncs may fail that would have succeeded on a good day.
    pub fn harms_syncs(&self) -> bool {
        self.platform_is_bad || self.loses_replies()
    }
}

/// Seconds, forward or back.
fn some_jump(chance: &mut Chance) -> i64 {
    chance.of(&[1, -1]) * chance.of(&[2, 45, 600, 3_700, 100_000, 5_000_000])
}

fn rates(chance: &mut Chance, most: f64) -> Rates {
    let mut rate = || if chance.happens(0.6) { chance.share(most) } else { 0.0 };
    Rates { reset: rate(), lost_reply: rate(), drip: rate(), delay: rate() }
}
