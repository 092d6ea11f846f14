//! Lists of small numbers as the kernel writes them (`0-3,7`), to masks of bits.

/// More than any machine has of processors or memory nodes.
const MAX_NUMBER: usize = 8191;

/// 64 numbers a word, the first word for 0 to 63. Empty for an empty list.
pub(crate) fn parse(text: &str) -> Result<Vec<u64>, String> {
    let mut mask: Vec<u64> = Vec::new();
    if text.trim().is_empty() {
        return Ok(mask);
    }
    for part in text.split(',') {
        let number = |text: &str| match text.trim().parse::<usize>() {
            Ok(number) if number <= MAX_NUMBER => Ok(number),
            Ok(number) => Err(format!("{number} is above {MAX_NUMBER}")),
            Err(_) => Err(format!("{part:?} is not a number or a range like 0-3")),
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        for one in first..=last {
            mask[one / 64] |= 1 << (one % 64);
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_what_is_none() {
        assert_eq!(parse("0-3,7"), Ok(vec![0b1000_1111]));
        assert_eq!(parse("64"), Ok(vec![0, 1]));
        assert_eq!(parse(""), Ok(vec![]));
        for bad in ["a", "3-1", "1,,2", "-1", "0-", "99999", "0-99999999999999999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
