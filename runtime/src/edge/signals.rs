//! Signals by name or number.

use super::CommandError;

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `SIGTERM`, `term`, `15`, `RTMIN+1`.
pub(crate) fn parse(text: &str) -> Result<i32, CommandError> {
    let refuse = || CommandError::Usage(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(refuse()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return Ok(at as i32 + 1);
    }
    let offset = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<i32>() };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => offset(rest.trim_start_matches('+')).map(|n| 34 + n),
        (_, Some(rest)) => offset(rest.trim_start_matches('-')).map(|n| 64 - n),
        _ => return Err(refuse()),
    };
    number.ok().filter(|n| (34..=64).contains(n)).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [("SIGKILL", 9), ("term", 15), ("9", 9), ("RTMIN+2", 36), ("SYS", 31)]
        {
            assert_eq!(parse(text).expect(text), number);
        }
        assert!(parse("NOPE").is_err());
        assert!(parse("65").is_err());
    }
}
