//! The framing of streams: the client's reader, held against the one envd uses.

use bytes::{Bytes, BytesMut};
use connectrpc::envelope::Envelope;

use crate::taken::envelope::{Decoder, EnvelopeError, Frame, encode};

/// The client's limit, so that both refuse the same.
const LIMIT: usize = 64 * 1024 * 1024;

/// Input: the size of the pieces, then a stream.
pub(crate) fn frames(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else {
        return;
    };
    let whole = read(std::iter::once(stream));
    let pieces = read(stream.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, pieces, "the cuts do not matter");
    assert_eq!(whole, read_as_envd(stream), "both sides read the same");
    if let (frames, None) = whole {
        let again: Vec<u8> = frames.iter().flat_map(written).collect();
        assert_eq!(read(std::iter::once(again.as_slice())), (frames, None));
    }
}

type Outcome = (Vec<Frame>, Option<EnvelopeError>);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, decoder.finish().err())
}

fn read_as_envd(stream: &[u8]) -> Outcome {
    let mut buffer = BytesMut::from(stream);
    let mut frames = Vec::new();
    loop {
        // What is in front of an error is the header, which both look at first.
        let header = buffer.get(..5).map(<[u8]>::to_vec);
        if header.as_ref().is_some_and(|header| header[0] & 1 != 0) {
            return (frames, Some(EnvelopeError::Compressed));
        }
        match Envelope::decode_with_limit(&mut buffer, LIMIT) {
            Ok(Some(envelope)) if envelope.is_end_stream() => {
                frames.push(Frame::End(envelope.data));
            }
            Ok(Some(envelope)) => frames.push(Frame::Message(envelope.data)),
            Ok(None) => {
                let rest = (!buffer.is_empty()).then_some(EnvelopeError::Cut);
                return (frames, rest);
            }
            Err(_refused) => {
                let header = header.expect("an error needs a header");
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
                let length = usize::try_from(length).expect("64 bits");
                return (frames, Some(EnvelopeError::TooLong(length)));
            }
        }
    }
}

fn written(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Message(message) => encode(message).to_vec(),
        Frame::End(message) => {
            let mut bytes = encode(message).to_vec();
            bytes[0] = 2;
            bytes
        }
    }
}
