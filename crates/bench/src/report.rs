//! The lines a benchmark prints.

/// What a value must be to be good.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Only for comparison.
    None,
}

/// Prints as it goes and remembers whether everything was good.
#[derive(Debug, Default)]
pub struct Report {
    short: bool,
}

impl Report {
    /// Prints `name value goal ok|SHORT`.
    pub fn line(&mut self, name: &str, value: f64, unit: &str, goal: Goal) {
        let (wanted, ok) = match goal {
            Goal::AtLeast(g) => (format!(">={}{unit}", number(g)), value >= g),
            Goal::AtMost(g) => (format!("<={}{unit}", number(g)), value <= g),
            Goal::None => ("-".into(), true),
        };
        self.short |= !ok;
        println!("{name} {}{unit} {wanted} {}", number(value), if ok { "ok" } else { "SHORT" });
    }

    /// A benchmark did not run to its end.
    pub fn failed(&mut self) {
        self.short = true;
    }

    pub fn ok(&self) -> bool {
        !self.short
    }
}

fn number(v: f64) -> String {
    if v.abs() >= 100.0 { format!("{v:.0}") } else { format!("{v:.3}") }
}

/// The middle one, or the mean of the middle two; zero for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests;
