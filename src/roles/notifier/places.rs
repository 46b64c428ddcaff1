//! Who may be sent to next: places are bounded, and no receiver can take those of the others. Pure.
//!
//! A receiver that answers has at most half of the places. One that did not answer the last time, or was not asked yet,
//! has one, and all of these together half of the places: however many are dead, others are told.

use std::collections::HashMap;

/// The places, and what is known of the receivers: as many as the pipeline files name.
#[derive(Debug)]
pub struct Places {
    all: usize,
    taken: usize,
    receivers: HashMap<String, Receiver>,
}

#[derive(Debug, Default)]
struct Receiver {
    taken: usize,
    answers: bool,
}

impl Places {
    /// This many places, at least one.
    pub fn new(all: usize) -> Self {
        Self { all: all.max(1), taken: 0, receivers: HashMap::new() }
    }

    /// Takes a place for a message to `receiver`, if it may have one now.
    pub fn take(&mut self, receiver: &str) -> bool {
        let half = (self.all / 2).max(1);
        let found = self.receivers.get(receiver);
        let (taken, answers) = found.map_or((0, false), |receiver| (receiver.taken, receiver.answers));
        let may = match answers {
            true => taken < half,
            false => taken == 0 && self.taken_by_silent() < half,
        };
        if !may || self.taken >= self.all {
            return false;
        }
        self.taken += 1;
        self.receivers.entry(receiver.to_owned()).or_default().taken += 1;
        true
    }

    /// Gives a place back, with whether the receiver answered; `None` when it was not asked.
    pub fn give_back(&mut self, receiver: &str, answered: Option<bool>) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(receiver) = self.receivers.get_mut(receiver) {
            receiver.taken = receiver.taken.saturating_sub(1);
            receiver.answers = answered.unwrap_or(receiver.answers);
        }
    }

    fn taken_by_silent(&self) -> usize {
        self.receivers.values().filter(|receiver| !receiver.answers).map(|receiver| receiver.taken).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    /// As many places as the receiver is given now.
    fn taken(places: &mut Places, receiver: &str) -> usize {
        (0..100).filter(|_| places.take(receiver)).count()
    }

    #[test]
    fn a_receiver_that_answers_has_half_of_the_places() {
        let mut places = Places::new(8);
        assert_eq!(taken(&mut places, "mail"), 1, "nobody knows yet whether it answers");
        places.give_back("mail", Some(true));
        assert_eq!(taken(&mut places, "mail"), 4);
        assert_eq!(taken(&mut places, "https://crm.example"), 1, "others have the rest");
        places.give_back("mail", Some(false));
        assert_eq!(taken(&mut places, "mail"), 0, "it does not answer any more");
    }

    #[test]
    fn a_thousand_dead_receivers_leave_half_of_the_places_to_others() {
        let mut places = Places::new(16);
        places.take("mail");
        places.give_back("mail", Some(true));
        let dead: usize = (0..1_000).map(|n| taken(&mut places, &format!("http://dead-{n}"))).sum();
        assert_eq!((dead, taken(&mut places, "mail")), (8, 8));
        assert_eq!(taken(&mut places, "http://another"), 0, "all are taken");
    }

    #[test]
    fn one_place_goes_to_one_after_the_other() {
        let mut places = Places::new(1);
        assert!(places.take("dead") && !places.take("mail"));
        places.give_back("dead", Some(false));
        assert!(places.take("mail") && !places.take("dead"));
        places.give_back("mail", None);
        assert!(places.take("dead"));
    }
}
