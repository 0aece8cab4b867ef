//! The only clock and the only source of randomness.
//!
//! Everything that asks for the time or for chance asks here, so that a reader finds both in one place. The random
//! source is the operating system's, through ring.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use ruma::MilliSecondsSinceUnixEpoch;

use crate::error::{Error, Result};

/// The end of the year 9999, the last that dates are written of.
const LAST_DATE_MS: u64 = 253_402_300_799_000;

/// By how much a clock is set back that was not wrong.
const SET_RIGHT: Duration = Duration::from_secs(60);

/// The wall-clock time, as events and devices are stamped with.
pub fn now() -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch::now()
}

/// The wall-clock time in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    now().get().into()
}

/// How long it is until a time that was noted to do something at, in milliseconds since the Unix epoch. Nothing is put off
/// for longer than `longest`: if it is further ahead, the clock was wrong then or is wrong now, and it is time. That it
/// was set right by a moment, as clocks are all the time, ends no pause.
pub fn time_until(ms: u64, longest: Duration) -> Duration {
    let rest = Duration::from_millis(ms.saturating_sub(now_ms()));
    if rest <= longest.saturating_add(SET_RIGHT) { rest.min(longest) } else { Duration::ZERO }
}

/// The wall-clock time as file systems note it.
pub fn system_time() -> SystemTime {
    SystemTime::now()
}

/// The date and time, in words of the internet, of a time in milliseconds since the Unix epoch.
pub fn date(ms: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms.min(LAST_DATE_MS)))
}

/// The monotonic time, for time-outs and rates.
pub fn instant() -> Instant {
    Instant::now()
}

/// `N` random bytes.
///
/// # Errors
/// When the operating system gives none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::internal("the system gives no random bytes"))?;
    Ok(bytes)
}

/// A random string of `length` characters from `A-Z a-z 0-9` (5.95 bits each): tokens, device and media IDs.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn random_string(length: usize) -> Result<String> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(length);
    while text.len() < length {
        // Bytes of 248 and more are dropped: 248 is the largest multiple of 62, so each character is equally likely.
        let usable = random_bytes::<32>()?.into_iter().filter(|byte| *byte < 248);
        text.extend(
            usable
                .take(length - text.len())
                .filter_map(|byte| ALPHABET.get(usize::from(byte % 62)))
                .map(|&c| c as char),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_right_ends_no_pause() {
        let (longest, noted) = (Duration::from_secs(3_600), now_ms() + 3_600_000);
        assert_eq!(time_until(noted + 30_000, longest), longest);
        assert_eq!(time_until(noted + 90_000, longest), Duration::ZERO);
    }
}
