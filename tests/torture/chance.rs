//! Draws from a seed: the same seed is the same schedule.

use std::time::Duration;

use mock_api::settings::{chance, mix};

/// A stream of draws.
pub struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not be neighbouring streams.
        Self { seed: mix(seed, 0x7075), drawn: 0 }
    }

    fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    /// A number from `least` to `most`, both included.
    pub fn number(&mut self, least: u64, most: u64) -> u64 {
        let drawn = self.next();
        least + mix(self.seed, drawn) % (most - least + 1)
    }

    /// As [`number`](Self::number), in milliseconds.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.number(least, most))
    }

    /// True with this probability.
    pub fn happens(&mut self, share: f64) -> bool {
        let drawn = self.next();
        chance(self.seed, drawn) < share
    }

    /// A number between 0 and `most`.
    pub fn share(&mut self, most: f64) -> f64 {
        let drawn = self.next();
        chance(self.seed, drawn) * most
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        let place = self.number(0, choices.len() as u64 - 1);
        choices[usize::try_from(place).unwrap()]
    }
}
