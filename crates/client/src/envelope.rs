//! Connect's framing of streams: one byte of flags, four bytes of length, the message.
//!
//! Pure: bytes in, frames out. The protocol is at <https://connectrpc.com/docs/protocol/>.

use std::collections::VecDeque;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Bit of the last frame, whose message is the stream's outcome.
const END_STREAM: u8 = 0b10;
/// Bit of a compressed message, which we never ask for.
const COMPRESSED: u8 = 0b01;
const HEADER: usize = 5;
/// Longer messages are refused: envd's own are 32 KiB and a little.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// One frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A message.
    Message(Bytes),
    /// The outcome; nothing follows.
    End(Bytes),
}

/// The bytes are not frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("a message is compressed, which was not asked for")]
    Compressed,
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("the stream ends within a frame")]
    Cut,
}

/// Wraps a message.
pub(crate) fn encode(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + message.len());
    out.put_u8(0);
    // Messages are ours and small; a longer one could not be sent in memory anyway.
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// Puts frames together from the pieces that a connection gives.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Decoder {
    /// Takes more bytes.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The next frame, when it is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, EnvelopeError> {
        let Some(header) = self.peek_header() else {
            return Ok(None);
        };
        let [flags, a, b, c, d] = header;
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if flags & COMPRESSED != 0 {
            return Err(EnvelopeError::Compressed);
        }
        if len > MAX_MESSAGE {
            return Err(EnvelopeError::TooLong(len));
        }
        if self.len < HEADER + len {
            return Ok(None);
        }
        let _header = self.take(HEADER);
        let message = self.take(len);
        Ok(Some(if flags & END_STREAM == 0 {
            Frame::Message(message)
        } else {
            Frame::End(message)
        }))
    }

    /// To be asked when the bytes have ended.
    pub(crate) fn finish(&self) -> Result<(), EnvelopeError> {
        if self.len == 0 {
            Ok(())
        } else {
            Err(EnvelopeError::Cut)
        }
    }

    fn peek_header(&self) -> Option<[u8; HEADER]> {
        let mut header = [0; HEADER];
        let mut bytes = self.pieces.iter().flat_map(|piece| piece.iter());
        for place in &mut header {
            *place = *bytes.next()?;
        }
        Some(header)
    }

    /// Takes `count` bytes that are known to be there; without copying when they are in one piece.
    fn take(&mut self, count: usize) -> Bytes {
        let count = count.min(self.len);
        self.len -= count;
        let taken = match self.pieces.front_mut() {
            Some(first) if first.len() >= count => first.split_to(count),
            _ => self.gather(count),
        };
        while self.pieces.front().is_some_and(Bytes::is_empty) {
            self.pieces.pop_front();
        }
        taken
    }

    fn gather(&mut self, count: usize) -> Bytes {
        let mut out = BytesMut::with_capacity(count);
        while out.len() < count
            && let Some(first) = self.pieces.front_mut()
        {
            let part = first.len().min(count - out.len());
            out.put_slice(first.get(..part).unwrap_or_default());
            first.advance(part);
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &[u8] = br#"{"event":{"start":{"pid":1234567}}}"#;

    fn frames(pieces: &[&[u8]]) -> Result<Vec<Frame>, EnvelopeError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = decoder.next()? {
                frames.push(frame);
            }
        }
        decoder.finish()?;
        Ok(frames)
    }

    #[test]
    fn known_bytes() {
        let start = encode(START);
        assert_eq!(&start[..5], [0, 0, 0, 0, 0x23]);
        let end = [0x02, 0, 0, 0, 2, 0x7b, 0x7d];
        let expected = vec![
            Frame::Message(Bytes::from_static(START)),
            Frame::End(Bytes::from_static(b"{}")),
        ];
        assert_eq!(frames(&[&start, &end]).unwrap(), expected);
    }

    #[test]
    fn any_cut_gives_the_same_frames() {
        let mut all = encode(START).to_vec();
        all.extend_from_slice(&encode(b""));
        all.extend_from_slice(&[2, 0, 0, 0, 2, b'{', b'}']);
        let whole = frames(&[&all]).unwrap();
        assert_eq!(whole.len(), 3);
        for cut in 0..=all.len() {
            let (a, b) = all.split_at(cut);
            assert_eq!(frames(&[a, b]).unwrap(), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(frames(&bytes).unwrap(), whole);
    }

    #[test]
    fn refusals() {
        assert_eq!(frames(&[&[1, 0, 0, 0, 0]]), Err(EnvelopeError::Compressed));
        assert_eq!(
            frames(&[&[0, 0xff, 0, 0, 0]]),
            Err(EnvelopeError::TooLong(0xff00_0000))
        );
        assert_eq!(frames(&[&[0, 0, 0, 0, 9, 1]]), Err(EnvelopeError::Cut));
    }
}
