//! The bytes of an archive, whatever it is compressed with.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use crate::apply::UnpackError;

const BUFFER: usize = 256 * 1024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Frames that decoders leave out: `0x184D2A50` to `0x184D2A5F`, little endian.
const SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Reads through what the first bytes say it is compressed with.
pub(crate) fn archive(layer: impl Read + 'static) -> Result<Box<dyn Read>, UnpackError> {
    let mut input = BufReader::with_capacity(BUFFER, layer);
    let head = input.fill_buf().map_err(UnpackError::read)?;
    Ok(if head.starts_with(GZIP) {
        Box::new(MultiGzDecoder::new(input))
    } else if head.starts_with(ZSTD) || is_skipped(head) {
        Box::new(Zstd::Between(input))
    } else {
        Box::new(input)
    })
}

fn is_skipped(head: &[u8]) -> bool {
    head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == SKIPPED
}

/// One frame after the other: the decoder knows only one.
enum Zstd<R: BufRead> {
    Between(R),
    Frame(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    /// After an error, and while one state becomes the other.
    Ended,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(self, Self::Ended) {
                Self::Ended => return Ok(0),
                Self::Between(input) => match next_frame(input)? {
                    Some(frame) => *self = Self::Frame(Box::new(frame)),
                    None => return Ok(0),
                },
                Self::Frame(mut frame) => match frame.read(buffer)? {
                    0 => *self = Self::Between(frame.into_inner()),
                    n => {
                        *self = Self::Frame(frame);
                        return Ok(n);
                    }
                },
            }
        }
    }
}

fn next_frame<R: BufRead>(
    mut input: R,
) -> io::Result<Option<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>> {
    loop {
        let head = input.fill_buf()?;
        if head.is_empty() {
            return Ok(None);
        }
        if !is_skipped(head) {
            return StreamingDecoder::new(input)
                .map(Some)
                .map_err(io::Error::other);
        }
        let mut header = [0; 8];
        input.read_exact(&mut header)?;
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        io::copy(&mut (&mut input).take(length.into()), &mut io::sink())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut input = archive(io::Cursor::new(bytes)).map_err(io::Error::other)?;
        input.read_to_end(&mut out)?;
        Ok(out)
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn compression_is_found_out() {
        let plain = b"some text, some text, some text".repeat(1000);
        assert_eq!(read(plain.clone()).unwrap(), plain);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(
            read([gzip.clone(), gzip].concat()).unwrap(),
            plain.repeat(2)
        );
        let note = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let frames = [note.clone(), zstd(&plain), note, zstd(&plain)].concat();
        assert_eq!(read(frames).unwrap(), plain.repeat(2));
    }

    #[test]
    fn half_an_archive_is_an_error() {
        let plain = b"some text, some text, some text".repeat(1000);
        let whole = zstd(&plain);
        assert!(read(whole[..whole.len() / 2].to_vec()).is_err());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).unwrap();
        let whole = gzip.finish().unwrap();
        assert!(read(whole[..whole.len() / 2].to_vec()).is_err());
    }
}
