//! Who of a group reads which partition, and how far: in memory, for the members of this process. Pure.

use std::collections::HashMap;

use crate::Topic;
use crate::log::Record;
use crate::log::acks::Acks;

/// Names a member within the process.
pub(super) type MemberId = u64;

/// All groups of the process.
#[derive(Default)]
pub(super) struct Groups {
    by_name: HashMap<(Topic, String), Group>,
    last_member: MemberId,
}

impl Groups {
    /// Adds a member; a group that is not yet known begins at `committed`, else at the start.
    pub fn join(
        &mut self,
        topic: Topic,
        group: &str,
        partitions: i32,
        committed: &HashMap<i32, i64>,
    ) -> MemberId {
        self.last_member += 1;
        let id = self.last_member;
        let group = self
            .by_name
            .entry((topic, group.to_owned()))
            .or_insert_with(|| Group::new(partitions, committed));
        group.members.push(id);
        group.share();
        id
    }

    /// Takes a member out; its partitions go to the others, from what is committed.
    pub fn leave(&mut self, topic: Topic, group: &str, member: MemberId) {
        if let Some(group) = self.group(topic, group) {
            group.members.retain(|id| *id != member);
            group.share();
        }
    }

    /// A group that someone has joined.
    pub fn group(&mut self, topic: Topic, group: &str) -> Option<&mut Group> {
        self.by_name.get_mut(&(topic, group.to_owned()))
    }
}

/// One group.
pub(super) struct Group {
    members: Vec<MemberId>,
    partitions: Vec<Partition>,
}

/// How far a group is in one partition.
#[derive(Default)]
struct Partition {
    owner: Option<MemberId>,
    /// Counts owners, so that records given to an earlier one can be told apart.
    generation: u64,
    /// The next offset to give out.
    position: i64,
    /// The next offset to give out when the owner goes.
    committed: i64,
    acks: Acks,
}

/// Where a member may read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub partition: i32,
    pub position: i64,
    pub generation: u64,
}

impl Group {
    fn new(partitions: i32, committed: &HashMap<i32, i64>) -> Self {
        let partition = |id| {
            let next = committed.get(&id).copied().unwrap_or(0);
            Partition { position: next, committed: next, ..Partition::default() }
        };
        Self { members: Vec::new(), partitions: (0..partitions).map(partition).collect() }
    }

    /// The partitions of a member.
    pub fn places(&self, member: MemberId) -> Vec<Place> {
        let place = |(id, held): (i32, &Partition)| Place {
            partition: id,
            position: held.position,
            generation: held.generation,
        };
        (0..).zip(&self.partitions).filter(|(_, held)| held.owner == Some(member)).map(place).collect()
    }

    /// Gives out records that were read at `place`; false when the partition has moved meanwhile.
    pub fn give(&mut self, place: Place, records: &[Record]) -> bool {
        let Some(held) = self.partition(place.partition) else {
            return false;
        };
        if (held.generation, held.position) != (place.generation, place.position) {
            return false;
        }
        for record in records {
            held.acks.given(record.offset);
            held.position = record.offset + 1;
        }
        true
    }

    /// Whether a partition still is with the owner of that generation.
    pub fn is_current(&self, partition: i32, generation: u64) -> bool {
        let held = usize::try_from(partition).ok().and_then(|id| self.partitions.get(id));
        held.is_some_and(|held| held.generation == generation)
    }

    /// Marks a record as done; the next offset to commit, when there is a new one.
    pub fn done(&mut self, member: MemberId, record: &Record) -> Option<i64> {
        let held = self.partition(record.partition)?;
        if held.owner != Some(member) {
            return None;
        }
        held.committed = held.acks.done(record.offset)? + 1;
        Some(held.committed)
    }

    fn partition(&mut self, partition: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(partition).ok()?)
    }

    /// Shares the partitions anew; a partition that moves begins at what is committed.
    fn share(&mut self) {
        let owners: Vec<_> = self.partitions.iter().map(|held| held.owner).collect();
        for (held, owner) in self.partitions.iter_mut().zip(shared(&owners, &self.members)) {
            if held.owner != owner {
                held.owner = owner;
                held.generation += 1;
                held.position = held.committed;
                held.acks = Acks::default();
            }
        }
    }
}

/// Shares partitions among members: numbers differ by one at most, and as few as possible move.
fn shared(owners: &[Option<MemberId>], members: &[MemberId]) -> Vec<Option<MemberId>> {
    if members.is_empty() {
        return vec![None; owners.len()];
    }
    let (least, more) = (owners.len() / members.len(), owners.len() % members.len());
    let held = |member: &MemberId| owners.iter().filter(|owner| **owner == Some(*member)).count();
    // The members that hold most may keep one more.
    let mut order = members.to_vec();
    order.sort_by_key(|member| (std::cmp::Reverse(held(member)), *member));
    let mut room: HashMap<MemberId, usize> =
        order.iter().enumerate().map(|(rank, member)| (*member, least + usize::from(rank < more))).collect();
    let mut take = |member: MemberId| match room.get_mut(&member) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    };
    let kept: Vec<_> = owners.iter().map(|owner| owner.filter(|member| take(*member))).collect();
    kept.into_iter()
        .map(|owner| owner.or_else(|| order.iter().copied().find(|member| take(*member))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(text: &str) -> Vec<Option<MemberId>> {
        text.chars().map(|c| c.to_digit(10).map(u64::from)).collect()
    }

    #[test]
    fn partitions_are_shared_evenly_and_few_move() {
        let table: [(&str, &[MemberId], &str); 7] = [
            ("----", &[], "----"),
            ("----", &[1], "1111"),
            ("1111", &[1, 2], "1122"),
            ("1122", &[1, 2, 3], "1123"),
            ("1123", &[1, 3], "1133"),
            ("1133", &[3], "3333"),
            ("11", &[1, 2, 3], "12"),
        ];
        for (before, members, after) in table {
            assert_eq!(shared(&owners(before), members), owners(after), "{before} {members:?}");
        }
    }

    #[test]
    fn a_partition_that_moves_begins_at_what_is_committed() {
        let record = |offset| Record { partition: 0, offset, key: String::new(), payload: Vec::new() };
        let mut groups = Groups::default();
        let committed = HashMap::from([(0, 10)]);
        let first = groups.join(Topic::Landed, "g", 1, &committed);
        let group = groups.group(Topic::Landed, "g").unwrap();
        let place = group.places(first)[0];
        assert_eq!(place.position, 10);
        assert!(group.give(place, &[record(10), record(11), record(12)]));
        assert!(!group.give(place, &[record(10)]), "what was read twice is given out once");
        assert_eq!(group.done(first, &record(11)), None);
        assert_eq!(group.done(first, &record(10)), Some(12));

        let second = groups.join(Topic::Landed, "g", 1, &committed);
        groups.leave(Topic::Landed, "g", first);
        let group = groups.group(Topic::Landed, "g").unwrap();
        assert_eq!(group.places(second)[0].position, 12);
        assert!(!group.is_current(0, place.generation));
        assert_eq!(group.done(first, &record(12)), None, "who has left commits nothing");
    }
}
