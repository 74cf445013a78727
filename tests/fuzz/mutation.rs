//! Inputs from a corpus: a few changes to an entry, each drawn from the seed.

use mock_api::settings::mix;

/// The longest input: larger ones are cut.
const LONGEST: usize = 64 << 10;

pub struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    dictionary: &'a [&'a str],
    seed: u64,
    drawn: u64,
}

impl<'a> Mutator<'a> {
    pub fn new(corpus: &'a [Vec<u8>], dictionary: &'a [&'a str], seed: u64) -> Self {
        Self { corpus, dictionary, seed, drawn: 0 }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.drawn += 1;
        usize::try_from(mix(self.seed, self.drawn) % (below.max(1) as u64)).unwrap()
    }

    /// The next input.
    pub fn next(&mut self) -> Vec<u8> {
        let entry = self.draw(self.corpus.len());
        let mut input = self.corpus[entry].clone();
        // Mostly a few changes: an input that is changed all over is refused at its first byte.
        let changes = 1 + self.draw(4) * self.draw(3);
        for _ in 0..changes {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.draw(input.len() + 1);
        let end = (at + 1 + self.draw(16)).min(input.len());
        match self.draw(12) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.draw(8);
                }
            }
            1 => input.insert(at, u8::try_from(self.draw(256)).unwrap()),
            2 => drop(input.drain(at.min(end)..end)),
            3 => input.truncate(at),
            4..=7 => {
                let token = self.dictionary[self.draw(self.dictionary.len())].as_bytes();
                let replaced = if self.draw(2) == 0 { at..at } else { at.min(end)..end };
                drop(input.splice(replaced, token.iter().copied()));
            }
            8 => {
                let number = self.number();
                drop(input.splice(at.min(end)..end, number.into_bytes()));
            }
            9 => {
                // A piece once more, or a thousand times.
                let piece = input[at.min(end)..end].to_vec();
                let times = if self.draw(20) == 0 { 1_000 } else { 1 + self.draw(3) };
                drop(input.splice(at..at, piece.repeat(times)));
            }
            10 => {
                let other = self.draw(self.corpus.len());
                let other = &self.corpus[other];
                let from = usize::try_from(mix(self.seed, !self.drawn) % (other.len() as u64 + 1)).unwrap();
                drop(input.splice(at.., other[from..].iter().copied()));
            }
            _ => {
                let exchanged = self.draw(input.len());
                if at < input.len() {
                    input.swap(at, exchanged);
                }
            }
        }
    }

    /// Numbers at which parsers err.
    fn number(&mut self) -> String {
        const EDGES: [&str; 24] = [
            "0",
            "-0",
            "-1",
            "1",
            "00",
            "1e9",
            "1e309",
            "-1e309",
            "1e-400",
            "0.1",
            "127",
            "128",
            "255",
            "256",
            "65535",
            "65536",
            "2147483647",
            "2147483648",
            "4294967296",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551616",
            "99999999999999999999999999999999",
            "NaN",
        ];
        EDGES[self.draw(EDGES.len())].to_owned()
    }
}
