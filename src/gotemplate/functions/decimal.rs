//! Exact decimal arithmetic for `addf` and its like: 0.1 + 0.2 is 0.3. PURE.

/// Digits after the point that a division gives.
const DIVISION_DIGITS: u32 = 16;

/// `digits * 10^-scale`.
#[derive(Clone, Copy)]
pub(super) struct Decimal {
    digits: i128,
    scale: u32,
}

fn too_long() -> String {
    "the number has too many digits for exact arithmetic".to_owned()
}

impl Decimal {
    /// The shortest decimal that means this number.
    pub(super) fn new(number: f64) -> Result<Self, String> {
        if !number.is_finite() {
            return Err(format!("cannot calculate with {number}"));
        }
        let text = format!("{number}");
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let digits = format!("{whole}{fraction}")
            .parse()
            .map_err(|_| too_long())?;
        let scale = fraction.len() as u32;
        Ok(Self { digits, scale })
    }

    pub(super) fn to_float(self) -> f64 {
        format!("{}e-{}", self.digits, self.scale)
            .parse()
            .unwrap_or(0.0)
    }

    fn scaled(self, scale: u32) -> Option<i128> {
        let power = 10i128.checked_pow(scale.checked_sub(self.scale)?)?;
        self.digits.checked_mul(power)
    }

    fn aligned(self, other: Self) -> Option<(i128, i128, u32)> {
        let scale = self.scale.max(other.scale);
        Some((self.scaled(scale)?, other.scaled(scale)?, scale))
    }

    fn made(digits: Option<i128>, scale: u32) -> Result<Self, String> {
        let digits = digits.ok_or_else(too_long)?;
        Ok(Self { digits, scale })
    }

    pub(super) fn add(self, other: Self) -> Result<Self, String> {
        let (a, b, scale) = self.aligned(other).ok_or_else(too_long)?;
        Self::made(a.checked_add(b), scale)
    }

    pub(super) fn sub(self, other: Self) -> Result<Self, String> {
        let (a, b, scale) = self.aligned(other).ok_or_else(too_long)?;
        Self::made(a.checked_sub(b), scale)
    }

    pub(super) fn mul(self, other: Self) -> Result<Self, String> {
        Self::made(
            self.digits.checked_mul(other.digits),
            self.scale + other.scale,
        )
    }

    /// Rounded to [`DIVISION_DIGITS`], halves away from zero.
    pub(super) fn div(self, other: Self) -> Result<Self, String> {
        if other.digits == 0 {
            return Err("division by zero".to_owned());
        }
        let (a, b, _) = self.aligned(other).ok_or_else(too_long)?;
        let power = 10i128.pow(DIVISION_DIGITS);
        let a = a.checked_mul(power).ok_or_else(too_long)?;
        let (quotient, rest) = (a / b, a % b);
        let up = rest.unsigned_abs() >= b.unsigned_abs() - rest.unsigned_abs();
        let away = if (a < 0) == (b < 0) { 1 } else { -1 };
        let digits = if up { quotient + away } else { quotient };
        Self::made(Some(digits), DIVISION_DIGITS)
    }
}
