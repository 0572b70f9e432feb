//! The last bytes that one process wrote, in their order, with the stream of each. Pure.
//!
//! Positions are bytes of output since the process's start, all its streams together.

use std::collections::VecDeque;

use bytes::Bytes;

/// What one ring may cost, its pieces' own cost included.
pub(crate) const RING_MAX: usize = 256 * 1024;
/// Small pieces share a block of at most this size: a terminal writes a byte or two at a time, a program a line.
const BLOCK: usize = 4 * 1024;
/// What a piece costs besides its bytes, roughly.
const PIECE_COST: usize = 128;

/// Which stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stdout,
    Stderr,
    Pty,
}

/// Some output, and where it stands in all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Position of the first byte.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) data: Bytes,
}

impl Chunk {
    /// Position after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.at.saturating_add(count(self.data.len()))
    }
}

/// Neighbouring bytes of one stream.
#[derive(Debug)]
struct Run {
    kind: Kind,
    length: u32,
}

#[derive(Debug)]
enum Piece {
    /// As it was read, shared with the listeners.
    Shared(Kind, Bytes),
    /// Small ones, copied together.
    Block { bytes: Vec<u8>, runs: Vec<Run> },
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Shared(_, data) => data.len(),
            Self::Block { bytes, .. } => bytes.len(),
        }
    }

    fn cost(&self) -> usize {
        let runs = match self {
            Self::Shared(..) => 0,
            Self::Block { runs, .. } => runs.len() * size_of::<Run>(),
        };
        PIECE_COST + self.len() + runs
    }

    /// Adds output, if it is small and there is room.
    fn extend(&mut self, kind: Kind, data: &[u8]) -> bool {
        let Self::Block { bytes, runs } = self else {
            return false;
        };
        if bytes.len() + data.len() > BLOCK {
            return false;
        }
        let length = u32::try_from(data.len()).unwrap_or_default();
        match runs.last_mut() {
            Some(last) if last.kind == kind => last.length += length,
            _ => runs.push(Run { kind, length }),
        }
        bytes.extend_from_slice(data);
        true
    }

    /// Its bytes, stream by stream.
    fn parts(&self) -> Vec<(Kind, Bytes)> {
        match self {
            Self::Shared(kind, data) => vec![(*kind, data.clone())],
            Self::Block { bytes, runs } => {
                let mut rest = Bytes::copy_from_slice(bytes);
                let part = |run: &Run| {
                    let length = usize::try_from(run.length).unwrap_or(usize::MAX);
                    (run.kind, rest.split_to(length.min(rest.len())))
                };
                runs.iter().map(part).collect()
            }
        }
    }
}

/// What one process wrote last.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    pieces: VecDeque<Piece>,
    /// Bytes in the pieces.
    held: usize,
    cost: usize,
    /// Bytes that were ever written.
    written: u64,
}

impl Ring {
    /// Position after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.written
    }

    /// Position of the oldest byte that is still here.
    pub(crate) fn start(&self) -> u64 {
        self.written - count(self.held)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What it costs in memory, roughly.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// Takes output; the oldest goes when there is too much. Gives its position.
    ///
    /// `data` must not be a part of something larger: it is kept as it is.
    pub(crate) fn append(&mut self, kind: Kind, data: &Bytes) -> u64 {
        let at = self.written;
        self.written += count(data.len());
        self.held += data.len();
        if data.is_empty() {
            return at;
        }
        let small = data.len() < BLOCK / 2;
        let last = self.pieces.back_mut().filter(|_| small);
        let before = last.as_ref().map_or(0, |piece| piece.cost());
        if let Some(piece) = last
            && piece.extend(kind, data)
        {
            self.cost += piece.cost() - before;
        } else {
            let mut piece = Piece::Block {
                bytes: Vec::new(),
                runs: Vec::new(),
            };
            if !small || !piece.extend(kind, data) {
                piece = Piece::Shared(kind, data.clone());
            }
            self.cost += piece.cost();
            self.pieces.push_back(piece);
        }
        while self.cost() > RING_MAX {
            self.drop_oldest();
        }
        at
    }

    /// Forgets the oldest piece.
    pub(crate) fn drop_oldest(&mut self) {
        if let Some(piece) = self.pieces.pop_front() {
            self.held -= piece.len();
            self.cost -= piece.cost();
        }
        if self.pieces.is_empty() {
            self.clear();
        }
    }

    /// Forgets everything but how much it was, and gives the room back.
    pub(crate) fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.held = 0;
        self.cost = 0;
    }

    /// What is still here of the bytes from one position up to another.
    pub(crate) fn between(&self, from: u64, to: u64) -> VecDeque<Chunk> {
        let mut begin = self.start();
        let mut chunks = VecDeque::new();
        for piece in &self.pieces {
            let after = begin + count(piece.len());
            if after <= from || begin >= to {
                begin = after;
                continue;
            }
            for (kind, data) in piece.parts() {
                let within = |position: u64| {
                    let offset = usize::try_from(position.saturating_sub(begin));
                    offset.unwrap_or(usize::MAX).min(data.len())
                };
                let (first, last) = (within(from), within(to));
                if first < last {
                    let (at, data) = (begin + count(first), data.slice(first..last));
                    chunks.push_back(Chunk { at, kind, data });
                }
                begin += count(data.len());
            }
        }
        chunks
    }
}

/// A length as a position has it.
fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(chunks: &VecDeque<Chunk>) -> String {
        let mut expected = chunks.front().map_or(0, |chunk| chunk.at);
        let mut all = String::new();
        for chunk in chunks {
            assert_eq!(chunk.at, expected, "no hole, no overlap");
            expected = chunk.end();
            all.push_str(std::str::from_utf8(&chunk.data).unwrap());
        }
        all
    }

    fn big(letter: u8) -> Bytes {
        Bytes::from(vec![letter; 32 * 1024])
    }

    #[test]
    fn small_pieces_share_a_block_and_streams_keep_their_order() {
        let mut ring = Ring::default();
        for (kind, data) in [
            (Kind::Stdout, "a"),
            (Kind::Stdout, "b"),
            (Kind::Stderr, "C"),
            (Kind::Stdout, ""),
            (Kind::Stdout, "d"),
        ] {
            ring.append(kind, &Bytes::from_static(data.as_bytes()));
        }
        let all = ring.between(0, ring.end());
        let seen: Vec<_> = all
            .iter()
            .map(|c| (c.at, c.kind, c.data.as_ref()))
            .collect();
        assert_eq!(
            seen,
            [
                (0, Kind::Stdout, b"ab".as_slice()),
                (2, Kind::Stderr, b"C"),
                (3, Kind::Stdout, b"d")
            ]
        );
        assert_eq!((ring.start(), ring.end()), (0, 4));
    }

    #[test]
    fn any_range_is_a_part_of_the_whole() {
        let mut ring = Ring::default();
        let mut whole = String::new();
        for (round, length) in [1, 3000, 7, 2047, 2048, 5, 9000, 1, 1]
            .into_iter()
            .enumerate()
        {
            let letter = char::from(b'a' + u8::try_from(round).unwrap());
            let data = letter.to_string().repeat(length);
            let kind = if round % 3 == 0 {
                Kind::Stderr
            } else {
                Kind::Stdout
            };
            assert_eq!(
                ring.append(kind, &Bytes::from(data.clone())),
                count(whole.len())
            );
            whole.push_str(&data);
        }
        for from in (0..=whole.len()).step_by(577) {
            for to in (from..=whole.len()).step_by(1013) {
                let part = ring.between(count(from), count(to));
                assert_eq!(text(&part), whole[from..to], "{from}..{to}");
            }
        }
        assert!(ring.between(ring.end(), u64::MAX).is_empty());
        assert!(ring.between(9, 3).is_empty());
    }

    #[test]
    fn the_oldest_goes_and_the_gap_shows() {
        let mut ring = Ring::default();
        for letter in b'a'..=b'j' {
            ring.append(Kind::Pty, &big(letter));
        }
        assert!(ring.cost() <= RING_MAX);
        let left = ring.between(0, ring.end());
        assert_eq!(ring.end(), 10 * 32 * 1024);
        assert_eq!(left.front().unwrap().at, ring.start());
        assert!(ring.start() > 0 && text(&left).ends_with('j') && text(&left).starts_with('d'));
    }

    #[test]
    fn tiny_pieces_are_counted_with_what_they_cost() {
        let mut ring = Ring::default();
        for round in 0..100_000 {
            let kind = if round % 2 == 0 {
                Kind::Stdout
            } else {
                Kind::Stderr
            };
            ring.append(kind, &Bytes::from_static(b"x"));
        }
        assert!(ring.cost() <= RING_MAX);
        // A byte and what says whose it is.
        assert!((20_000..60_000).contains(&ring.held), "{}", ring.held);
        assert_eq!(ring.end(), 100_000);
        // One stream alone keeps nearly as much as it may.
        for _ in 0..500_000 {
            ring.append(Kind::Pty, &Bytes::from_static(b"y"));
        }
        assert!(ring.end() - ring.start() > 240 * 1024);
    }

    #[test]
    fn a_cleared_ring_knows_where_it_is() {
        let mut ring = Ring::default();
        ring.append(Kind::Stdout, &big(b'a'));
        ring.clear();
        assert_eq!(
            (ring.start(), ring.end(), ring.cost()),
            (32 * 1024, 32 * 1024, 0)
        );
        assert_eq!(
            ring.append(Kind::Stdout, &Bytes::from_static(b"x")),
            32 * 1024
        );
        assert_eq!(text(&ring.between(0, u64::MAX)), "x");
    }
}
