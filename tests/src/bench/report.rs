//! Medians, ratios and the table.

use std::time::Duration;

use super::daemons::Figures;

/// The middle value; 0 of none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let high = values.get(values.len() / 2).copied().unwrap_or_default();
    if values.len() % 2 == 1 {
        return high;
    }
    let low = values.len().checked_sub(1).and_then(|n| values.get(n / 2)).copied();
    f64::midpoint(low.unwrap_or_default(), high)
}

/// In milliseconds.
#[must_use]
pub fn median_ms(values: &[Duration]) -> f64 {
    median(values.iter().map(|d| d.as_secs_f64() * 1e3))
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes in KiB")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is measured.
    pub what: String,
    /// The unit, after each figure.
    pub unit: &'static str,
    /// Whether a larger figure is better.
    pub more_is_better: bool,
    /// One figure a peer, Wharf first; none where it was not measured.
    pub figures: Vec<Option<f64>>,
    /// What the design allows.
    pub budget: &'static str,
}

impl Row {
    fn line(&self) -> String {
        let cells: Vec<_> = self
            .figures
            .iter()
            .map(|f| f.filter(|f| *f > 0.0))
            .map(|f| f.map_or_else(|| "–".into(), |f| format!("{} {}", number(f), self.unit)))
            .collect();
        let own = self.figures.first().copied().flatten();
        let ratios: Vec<_> = self
            .figures
            .iter()
            .skip(1)
            .map(|peer| match (own, peer) {
                (Some(own), Some(peer)) if own > 0.0 && *peer > 0.0 => {
                    let ratio = if self.more_is_better { own / peer } else { peer / own };
                    format!("{} ×", number(ratio))
                }
                _ => "–".into(),
            })
            .collect();
        let (cells, ratios) = (cells.join(" | "), ratios.join(" / "));
        format!("| {} | {cells} | {ratios} | {} |", self.what, self.budget)
    }
}

fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A whole table; `peers` names the columns, Wharf first.
#[must_use]
pub fn table(peers: &[String], rows: &[Row]) -> String {
    let head = format!("| | {} | better by | budget |", peers.join(" | "));
    let line = format!("|---|{}---:|---|", "---:|".repeat(peers.len()));
    let rows: Vec<_> = rows.iter().map(Row::line).collect();
    format!("{head}\n{line}\n{}\n", rows.join("\n"))
}

/// The lines about a large host, of one daemon beside nothing.
#[must_use]
pub fn many_rows(own: &Figures, containers: usize) -> Vec<Row> {
    let row = |what: String, unit, figure: f64, budget| Row {
        what,
        unit,
        more_is_better: false,
        figures: vec![Some(figure), None],
        budget,
    };
    let n = containers;
    vec![
        row(
            format!("supervisor RSS, {n} containers started"),
            "MiB",
            mib(own.many_rss_kib),
            "50 MiB",
        ),
        row(
            format!("supervisor RSS, {n} containers found after a restart"),
            "MiB",
            mib(own.many_found_rss_kib),
            "50 MiB",
        ),
        row(
            format!("restart to first answer, {n} containers"),
            "ms",
            median_ms(&own.many_restart),
            "300 ms",
        ),
    ]
}

/// The lines about daemons.
#[must_use]
pub fn daemon_rows(peers: &[Option<&Figures>], containers: usize) -> Vec<Row> {
    let row = |what: String, unit, more_is_better, figure: &dyn Fn(&Figures) -> f64, budget| Row {
        what,
        unit,
        more_is_better,
        figures: peers.iter().map(|p| p.map(figure)).collect(),
        budget,
    };
    vec![
        row(
            "life of `true` (create, start, exit, delete), one caller".into(),
            "ms",
            false,
            &|f| median_ms(&f.life),
            "10 ×, < 20 ms",
        ),
        row(
            "lives a second, eight callers".into(),
            "/s",
            true,
            &|f| median(f.lives_per_second.iter().copied()),
            "10 ×",
        ),
        row("exec of `true`".into(), "ms", false, &|f| median_ms(&f.exec), "< 8 ms"),
        row(
            "pull and unpack from a registry on loopback".into(),
            "ms",
            false,
            &|f| median_ms(&f.pull),
            "2 ×",
        ),
        row(
            format!("memory of a shim (PSS, of {containers})"),
            "MiB",
            false,
            &|f| median(f.shim_pss_kib.iter().map(|k| mib(*k))),
            "0.4 MiB",
        ),
        row(
            "supervisor RSS, no container".into(),
            "MiB",
            false,
            &|f| mib(f.idle_rss_kib),
            "15 MiB",
        ),
        row(
            format!("supervisor RSS, {containers} containers"),
            "MiB",
            false,
            &|f| mib(f.full_rss_kib),
            "",
        ),
        row(
            format!("restart to first answer, {containers} containers"),
            "ms",
            false,
            &|f| median_ms(&f.restart),
            "50 ms",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Row, median, table};

    #[test]
    fn medians() {
        for (values, middle) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![4.0, 1.0], 2.5), (vec![9.0, 1.0, 2.0], 2.0)]
        {
            assert!((median(values.clone()) - middle).abs() < 1e-9, "{values:?}");
        }
    }

    #[test]
    fn ratios_say_how_much_better_the_first_is() {
        let row = |figures, more_is_better| Row {
            what: "x".into(),
            unit: "ms",
            more_is_better,
            figures,
            budget: "",
        };
        let rows = [
            row(vec![Some(2.0), Some(20.0)], false),
            row(vec![Some(20.0), Some(2.0)], true),
            row(vec![Some(2.0), None], false),
        ];
        let table = table(&["a".into(), "b".into()], &rows);
        let ratios: Vec<_> =
            table.lines().skip(2).filter_map(|l| l.split('|').nth(4)).map(str::trim).collect();
        assert_eq!(ratios, ["10.0 ×", "10.0 ×", "–"]);
    }
}
