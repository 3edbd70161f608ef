//! Who is asked for memory when there is none: against plain lists of what each could give.

use std::cell::RefCell;
use std::collections::BTreeSet;

use gmap::{Givers, Round};
use proptest::prelude::*;

/// Pages of each VM, and how many one slice looks at.
const PAGES: u64 = 40;
const SLICE: u64 = 7;

/// What each slot's VM could give: pages by number.
#[derive(Debug)]
struct Lists(RefCell<Vec<Option<BTreeSet<u64>>>>);

impl Lists {
    fn left(&self) -> usize {
        self.0.borrow().iter().flatten().map(BTreeSet::len).sum()
    }
}

impl Givers for Lists {
    fn slots(&self) -> usize {
        self.0.borrow().len()
    }

    fn is_there(&self, slot: usize) -> bool {
        self.0.borrow()[slot].is_some()
    }

    fn slice(&self, slot: usize, at: Option<u64>) -> (u64, Option<u64>) {
        let mut lists = self.0.borrow_mut();
        let Some(pages) = &mut lists[slot] else {
            return (0, None);
        };
        let from = at.unwrap_or(0);
        let to = (from + SLICE).min(PAGES);
        let before = pages.len();
        pages.retain(|page| !(from..to).contains(page));
        let given = u64::try_from(before - pages.len()).expect("few") << 12;
        (given, (to < PAGES).then_some(to))
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Asker `who` asks once more.
    Ask(usize),
    /// Asker `who` got what it wanted from somewhere else.
    Satisfied(usize),
    /// The VM in a slot could do without a page, or comes, or goes.
    Offer(usize, u64),
    Come(usize),
    Go(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3_usize).prop_map(Op::Ask),
        1 => (0..3_usize).prop_map(Op::Satisfied),
        2 => (0..6_usize, 0..PAGES).prop_map(|(slot, page)| Op::Offer(slot, page)),
        1 => (0..6_usize).prop_map(Op::Come),
        1 => (0..6_usize).prop_map(Op::Go),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(3000), ..ProptestConfig::default() })]

    /// Nobody is refused while there is something that was there when it began to ask and that
    /// nobody took; and who asks where there is nothing is refused soon.
    #[test]
    fn b30_nobody_is_refused_before_everyone_was_asked(ops in prop::collection::vec(op(), 1..200)) {
        let lists = Lists(RefCell::new(vec![None; 6]));
        let mut round = Round::new();
        let mut askers = [None; 3];
        // What could be given when each asker began, less what went since.
        let mut there: [BTreeSet<(usize, u64)>; 3] = Default::default();
        let all = |lists: &Lists| -> BTreeSet<(usize, u64)> {
            let lists = lists.0.borrow();
            let slots = lists.iter().enumerate();
            slots
                .flat_map(|(slot, pages)| pages.iter().flatten().map(move |page| (slot, *page)))
                .collect()
        };
        for op in ops {
            match op {
                Op::Ask(who) => {
                    if askers[who].is_none() {
                        there[who] = all(&lists);
                    }
                    let again = round.slice(&lists, &mut askers[who]);
                    let now = all(&lists);
                    for there in &mut there {
                        there.retain(|page| now.contains(page));
                    }
                    prop_assert!(again || there[who].is_empty(), "{:?}", there[who]);
                    prop_assert!(again || askers[who].is_none());
                }
                Op::Satisfied(who) => askers[who] = None,
                Op::Offer(slot, page) => {
                    if let Some(pages) = &mut lists.0.borrow_mut()[slot] {
                        pages.insert(page);
                    }
                }
                Op::Come(slot) => {
                    lists.0.borrow_mut()[slot].get_or_insert_default();
                }
                Op::Go(slot) => {
                    lists.0.borrow_mut()[slot] = None;
                    for there in &mut there {
                        there.retain(|(of, _)| *of != slot);
                    }
                }
            }
        }
        // Whoever goes on asking gets all there is, and is then told that there is no more.
        let mut asking = None;
        let slices = 6 * (PAGES.div_ceil(SLICE) + 1);
        let most = (u64::try_from(lists.left()).expect("few") + 1) * slices + slices;
        let ends = (0..most).position(|_| !round.slice(&lists, &mut asking));
        prop_assert!(ends.is_some(), "asked for ever");
        prop_assert_eq!(lists.left(), 0);
    }
}
