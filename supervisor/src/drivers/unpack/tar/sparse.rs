//! Where the data of a sparse file goes.

use std::io::BufRead;

use super::{
    Error, TarReader,
    header::{BLOCK, Header, number},
    pax::{PaxSparse, decimal},
};

/// A run of data in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

/// GNU's own header: four extents in it, twenty-one in each block that follows. Answers with the size
/// of the whole file too.
pub(super) fn read_old_gnu<R: BufRead>(
    tar: &mut TarReader<R>,
    block: &[u8; BLOCK],
    header: &Header,
) -> Result<(Vec<Extent>, u64), Error> {
    let bad = || header.bad("sparse map");
    let real = number(&block[483..495]).and_then(|n| u64::try_from(n).ok()).ok_or_else(bad)?;
    let mut extents = Vec::new();
    take_extents(&block[386..482], &mut extents).ok_or_else(bad)?;
    let mut more = block[482] != 0;
    while more {
        let next = tar.extra_block()?;
        take_extents(&next[..504], &mut extents).ok_or_else(bad)?;
        more = next[504] != 0;
        check_count(tar, extents.len())?;
    }
    Ok((extents, real))
}

fn take_extents(bytes: &[u8], extents: &mut Vec<Extent>) -> Option<()> {
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let offset = u64::try_from(number(&pair[..12])?).ok()?;
        let len = u64::try_from(number(&pair[12..])?).ok()?;
        extents.push(Extent { offset, len });
    }
    Some(())
}

type Sparse = (Vec<Extent>, u64, Option<Vec<u8>>);

/// PAX 0.0 and 0.1 have the map in their records, 1.0 before the data.
pub(super) fn read_pax<R: BufRead>(
    tar: &mut TarReader<R>,
    asked: &PaxSparse,
    header: &Header,
) -> Result<Sparse, Error> {
    let bad = || header.bad("sparse map");
    let numbers = if asked.major == 0 { asked.numbers.clone() } else { leading_map(tar, header)? };
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(bad());
    }
    let extents = pairs.map(|p| Extent { offset: p[0], len: p[1] }).collect();
    let real = asked.real_size.ok_or_else(bad)?;
    Ok((extents, real, asked.name.clone()))
}

/// Decimal lines, the first of which counts the pairs; filled up to whole blocks.
fn leading_map<R: BufRead>(tar: &mut TarReader<R>, header: &Header) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    let mut line = Vec::new();
    let mut expected = None;
    loop {
        for byte in tar.data_block()? {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(header.bad("sparse map"));
                }
                continue;
            }
            let value = decimal(&line).ok_or_else(|| header.bad("sparse map"))?;
            line.clear();
            let Some(pairs) = expected else {
                let pairs = usize::try_from(value).unwrap_or(usize::MAX);
                check_count(tar, pairs)?;
                expected = Some(pairs);
                if pairs == 0 {
                    return Ok(numbers);
                }
                continue;
            };
            numbers.push(value);
            if numbers.len() == 2 * pairs {
                return Ok(numbers);
            }
        }
    }
}

fn check_count<R>(tar: &TarReader<R>, extents: usize) -> Result<(), Error> {
    let limit = tar.limits.sparse_extents;
    if extents > limit {
        return Err(Error::Limit { what: "extents in a sparse file", limit: limit as u64 });
    }
    Ok(())
}

/// In order, apart, inside of the file, and as much as there is data.
pub(super) fn check(
    extents: &[Extent],
    size: u64,
    data: u64,
    header: &Header,
) -> Result<(), Error> {
    let mut end = 0;
    let mut sum: u64 = 0;
    for extent in extents {
        let next = extent.offset.checked_add(extent.len).ok_or_else(|| header.bad("sparse map"))?;
        if extent.offset < end || next > size {
            return Err(header.bad("sparse map"));
        }
        end = next;
        sum += extent.len;
    }
    if sum == data && size <= i64::MAX as u64 { Ok(()) } else { Err(header.bad("sparse map")) }
}
