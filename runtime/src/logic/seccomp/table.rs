//! System calls by name.

const TEXT: &str = include_str!("syscalls.txt");

/// Architectures in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // each build uses those of its own architecture
pub(super) enum Column {
    X86_64,
    I386,
    X32,
    Aarch64,
}

/// The numbers of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers(&'static str);

impl Numbers {
    /// `None`: that architecture has no such call.
    pub(super) fn of(self, column: Column) -> Option<u32> {
        let number = self.0.split(' ').nth(column as usize)?.parse::<u32>().ok()?;
        Some(if column == Column::X32 { number | super::X32_BIT } else { number })
    }
}

/// `None`: no architecture has a call of that name. The lines are sorted, so this is a search by
/// halves over the text itself, and nothing has to be built at start.
pub(super) fn find(name: &str) -> Option<Numbers> {
    let (mut low, mut high) = (0, TEXT.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = TEXT[..middle].rfind('\n').map_or(0, |at| at + 1).max(low);
        let end = TEXT[start..].find('\n').map_or(TEXT.len(), |at| start + at);
        let line = &TEXT[start..end];
        // The comment's lines sort before every name.
        let (found, numbers) = line.split_once(' ').unwrap_or((line, ""));
        match found.cmp(name) {
            std::cmp::Ordering::Equal => return Some(Numbers(numbers)),
            std::cmp::Ordering::Less => low = end + 1,
            std::cmp::Ordering::Greater => high = start,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_found() {
        let mut seen = 0;
        for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(' ').next().expect("a name");
            assert_eq!(find(name).expect(name).0.split(' ').count(), 4, "{name}");
            seen += 1;
        }
        assert!(seen > 450);
        assert!(find("").is_none() && find("zzz").is_none() && find("opena").is_none());
        assert_eq!(find("openat").and_then(|n| n.of(Column::X86_64)), Some(257));
        assert_eq!(find("stat").and_then(|n| n.of(Column::Aarch64)), None);
    }
}
