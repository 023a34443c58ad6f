//! The Primal Logic parameters that every record in every store carries, so that data can be correlated across stores.

use std::fmt;
use std::str::FromStr;

/// α, λ and K. In an event's attribute `primal` they are written `"0.55,0.115,1.47"`; an event without it carries
/// [`Primal::STANDARD`], whatever the hub's own setting is, so that the meaning of a stored event never changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Primal {
    /// α
    pub alpha: f64,
    /// λ
    pub lambda: f64,
    /// K
    pub k: f64,
}

impl Primal {
    /// α = 0.55, λ = 0.115, K = 1.47.
    pub const STANDARD: Primal = Primal { alpha: 0.55, lambda: 0.115, k: 1.47 };
}

impl Default for Primal {
    fn default() -> Self {
        Primal::STANDARD
    }
}

impl fmt::Display for Primal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.alpha, self.lambda, self.k)
    }
}

impl FromStr for Primal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not three finite numbers \"alpha,lambda,k\", such as \"{}\"", Primal::STANDARD);
        let mut numbers = text.split(',').map(|part| part.trim().parse::<f64>().ok().filter(|n| n.is_finite()));
        let mut next = || numbers.next().flatten().ok_or_else(wrong);
        let primal = Primal { alpha: next()?, lambda: next()?, k: next()? };
        if numbers.next().is_some() { Err(wrong()) } else { Ok(primal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_named() {
        assert_eq!("0.55,0.115,1.47".parse(), Ok(Primal::STANDARD));
        assert_eq!(Primal::STANDARD.to_string(), "0.55,0.115,1.47");
        for bad in ["", "1,2", "1,2,3,4", "a,b,c", "NaN,1,2"] {
            assert!(bad.parse::<Primal>().unwrap_err().contains("three finite numbers"), "{bad}");
        }
    }
}
