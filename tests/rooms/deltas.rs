//! States as chains of differences.

use std::collections::BTreeMap;

use conduit::{
    ids::{EventNo, StateKeyNo, StateNo},
    rooms::deltas,
    store::{Direction, trees},
};
use proptest::prelude::*;

use super::world;

type Whole = BTreeMap<StateKeyNo, EventNo>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any state that any changes made of any earlier state reads back as what it is, whole and key by key, and two
    /// states differ in what their contents differ in.
    #[test]
    fn deltas_rebuild_state(
        steps in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec((1u64..12, prop::option::of(1u64..1000)), 1..4)),
            1..60,
        ),
        pairs in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 20),
    ) {
        let world = world();
        let mut states: Vec<(StateNo, Whole)> = vec![(deltas::EMPTY, Whole::new())];
        for (base, changes) in steps {
            let (base, mut whole) = base.get(&states).clone();
            let changes: BTreeMap<_, _> =
                changes.into_iter().map(|(key, event)| (StateKeyNo(key), event.map(EventNo))).collect();
            for (key, event) in &changes {
                match event {
                    Some(event) => whole.insert(*key, *event),
                    None => whole.remove(key),
                };
            }
            let changes: Vec<_> = changes.into_iter().collect();
            let no = world.rooms.store.write(|tx| deltas::apply(tx, base, &changes)).unwrap();
            states.push((no, whole));
        }
        let read = world.rooms.store.read();
        for (no, whole) in &states {
            prop_assert_eq!(&deltas::all(&read, *no).unwrap(), whole);
            for key in 0..13 {
                let key = StateKeyNo(key);
                prop_assert_eq!(deltas::lookup(&read, *no, key).unwrap(), whole.get(&key).copied());
            }
        }
        for (from, to) in pairs {
            let ((from, before), (to, after)) = (from.get(&states), to.get(&states));
            let changes = deltas::diff(&read, *from, *to).unwrap();
            for key in (0..13).map(StateKeyNo) {
                let (old, new) = (before.get(&key).copied(), after.get(&key).copied());
                let expected = (old != new).then_some((key, old, new));
                prop_assert_eq!(changes.iter().find(|change| change.0 == key).copied(), expected);
            }
        }
    }
}

/// A thousand changes, one after another, cost some entries each and not a thousand, and no chain is long.
#[test]
fn a_large_state_costs_rows_per_change() {
    let world = world();
    let mut state = deltas::EMPTY;
    world
        .rooms
        .store
        .write(|tx| {
            for key in 1..=1000 {
                state = deltas::apply(tx, state, &[(StateKeyNo(key), Some(EventNo(key)))])?;
            }
            Ok(())
        })
        .unwrap();
    let read = world.rooms.store.read();
    let layers: Vec<_> = trees::STATES.scan(&read, (), Direction::Forward).map(Result::unwrap).collect();
    let entries: usize = layers.iter().map(|(_, layer)| layer.entries.len()).sum();
    assert_eq!(layers.len(), 1000);
    assert!(entries < 1000 * 11, "{entries} entries");
    let mut depth = 0;
    let mut at = state;
    while at != deltas::EMPTY {
        at = trees::STATES.get(&read, at).unwrap().unwrap().parent;
        depth += 1;
    }
    assert!(depth <= 11, "{depth} layers");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// States that were made on a floor are, once it is filled, what they would have been had all been known from the
    /// beginning; until then they are not whole.
    #[test]
    fn what_stands_on_a_floor_is_completed_from_beneath(
        beneath in prop::collection::btree_map(1u64..40, 1u64..1000, 1..30),
        steps in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec((1u64..40, prop::option::of(1u64..1000)), 1..4)),
            1..40,
        ),
    ) {
        let world = world();
        let store = &world.rooms.store;
        let beneath: Whole = beneath.into_iter().map(|(key, event)| (StateKeyNo(key), EventNo(event))).collect();
        let floor = store.write(deltas::floor).unwrap();
        let mut states: Vec<(StateNo, Whole)> = vec![(floor, beneath.clone())];
        for (base, changes) in steps {
            let (base, mut whole) = base.get(&states).clone();
            let changes: BTreeMap<_, _> =
                changes.into_iter().map(|(key, event)| (StateKeyNo(key), event.map(EventNo))).collect();
            for (key, event) in &changes {
                match event {
                    Some(event) => whole.insert(*key, *event),
                    None => whole.remove(key),
                };
            }
            let changes: Vec<_> = changes.into_iter().collect();
            states.push((store.write(|tx| deltas::apply(tx, base, &changes)).unwrap(), whole));
        }
        for (no, _) in &states {
            prop_assert!(!deltas::is_whole(&store.read(), *no).unwrap());
        }
        store.write(|tx| deltas::fill(tx, floor, beneath.clone())).unwrap();
        prop_assert!(store.write(|tx| deltas::fill(tx, floor, beneath.clone())).is_err());
        for (no, whole) in &states {
            prop_assert!(deltas::is_whole(&store.read(), *no).unwrap());
            prop_assert_eq!(&deltas::all(&store.read(), *no).unwrap(), whole);
            for key in (0..41).map(StateKeyNo) {
                prop_assert_eq!(deltas::lookup(&store.read(), *no, key).unwrap(), whole.get(&key).copied());
            }
        }
    }
}
