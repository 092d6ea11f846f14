//! `/proc/<pid>/stat`.

/// Field 22. The name in field 2 may hold spaces and parentheses, so counting begins after the
/// last one that closes.
pub(crate) fn start_ticks(stat: &[u8]) -> Option<u64> {
    field(stat, 19)
}

fn field(stat: &[u8], after_name: usize) -> Option<u64> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(after_name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = b"7 (a) R (b) S 1 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 4711 100 5 0\n";
        assert_eq!(start_ticks(stat), Some(4711));
        assert_eq!(start_ticks(b"7 (a"), None);
    }
}
