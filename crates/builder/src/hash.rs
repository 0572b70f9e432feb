//! SHA-256 as this crate writes it down: lower-case hexadecimal digits.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

const BUFFER: usize = 256 * 1024;

/// Of everything that can be read. Blocking.
pub(crate) fn of_all(mut input: impl Read) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(hash));
        }
        hash.update(&buffer[..n]);
    }
}

/// Of what a hasher was given.
pub(crate) fn hex(hash: Sha256) -> String {
    data_encoding::HEXLOWER.encode(&hash.finalize())
}
