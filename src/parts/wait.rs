//! Waiting at start for a server that does not answer yet, up to a bound, saying what is waited for.

use std::time::{Duration, Instant};

use tidemill_pipelines::Retry;
use tracing::warn;

/// First and longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Tries until the part answers, its error will not pass, or the wait is over; then gives the last error.
pub async fn until_answers<T, E, F, Fut>(
    part: &str,
    longest: Duration,
    mut ask: F,
    retry: fn(&E) -> Retry,
) -> Result<T, E>
where
    E: std::error::Error + 'static,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let began = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if retry(&error) == Retry::Never || began.elapsed() + pause > longest {
            return Err(error);
        }
        let waited_seconds = began.elapsed().as_secs();
        warn!(error = &error as &dyn std::error::Error, waited_seconds, "waiting for {part}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_is_waited_for_within_the_bound_and_not_when_it_will_never_answer() {
        let mut asked = 0;
        let answers_at_third = || {
            asked += 1;
            let answer = if asked < 3 { Err(std::io::Error::other("away")) } else { Ok(asked) };
            async move { answer }
        };
        let longest = Duration::from_secs(60);
        assert_eq!(until_answers("it", longest, answers_at_third, |_| Retry::Later).await.unwrap(), 3);

        let away = || async { Err::<(), _>(std::io::Error::other("away")) };
        until_answers("it", Duration::ZERO, away, |_| Retry::Later).await.unwrap_err();

        let mut tries = 0;
        let refuses = || {
            tries += 1;
            async { Err::<(), _>(std::io::Error::other("no")) }
        };
        until_answers("it", longest, refuses, |_| Retry::Never).await.unwrap_err();
        assert_eq!(tries, 1);
    }
}
