//! Public names (M8): injective, inside the grammar, with an explicit way back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};

use proptest::prelude::*;
use runtime_core::Random as _;
use runtime_mcp_cache::{NameMap, public_name};
use runtime_testkit::SeededRandom;

/// Also in a debug build, where it takes some seconds.
const NAMES: usize = 1_000_000;

fn in_grammar(name: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    let first = name.bytes().next();
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && name.len() <= 63
        && name.bytes().all(legal)
}

/// Few letters, short and long: names that meet often.
fn random_text(random: &SeededRandom) -> String {
    const LETTERS: [&str; 12] = [
        "a",
        "b",
        "_",
        "__",
        "-",
        ".",
        "/",
        "A",
        "0",
        "é",
        " ",
        "-0123456789abcdef",
    ];
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    let length = if bytes[0] < 16 {
        15
    } else {
        usize::from(bytes[0] % 7)
    };
    bytes[1..=length]
        .iter()
        .map(|&byte| LETTERS[usize::from(byte) % LETTERS.len()])
        .collect()
}

#[test]
fn m8_a_million_random_names_stay_injective_and_inside_the_grammar() {
    let random = SeededRandom::new(8);
    // Of the pair behind a name its hash is enough, and takes a tenth of the memory.
    let hasher = RandomState::new();
    let mut seen: HashMap<String, u64> = HashMap::with_capacity(NAMES);
    let mut distinct = 0;
    for _ in 0..NAMES {
        let pair = (random_text(&random), random_text(&random));
        let name = public_name(&pair.0, &pair.1);
        assert!(in_grammar(&name), "{name:?} of {pair:?}");
        let hash = hasher.hash_one(&pair);
        match seen.entry(name) {
            Entry::Vacant(place) => {
                place.insert(hash);
                distinct += 1;
            }
            Entry::Occupied(place) => {
                let name = place.key();
                assert_eq!(*place.get(), hash, "{pair:?} and another are called {name}");
            }
        }
    }
    println!("{NAMES} (server, tool) pairs, {distinct} distinct, each with a name of its own");
    assert!(
        distinct > NAMES / 4,
        "only {distinct} distinct names were tried"
    );
}

#[test]
fn m8_names_that_look_alike_are_kept_apart() {
    let pairs = [
        ("a", "b__c"),
        ("a__b", "c"),
        ("a_", "_b"),
        ("a", "__b"),
        ("a__", "b"),
        ("a", "b.c"),
        ("a", "b_c"),
        ("a.b", "c"),
        ("a_b", "c"),
        ("", "a"),
        ("a", ""),
        ("", ""),
        ("1a", "b"),
        ("_1a", "b"),
    ];
    let mut names: Vec<_> = pairs.iter().map(|(s, t)| public_name(s, t)).collect();
    // Whoever imitates a lossy name gets another one.
    let imitated = public_name("a", "b.c");
    let tool = imitated.strip_prefix("a__").unwrap();
    names.push(public_name("a", tool));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
    assert!(names.iter().all(|name| in_grammar(name)));
}

#[test]
fn m8_the_way_back_is_a_map_and_equal_names_are_both_refused() {
    let (map, refused) =
        NameMap::gather([("a", "x"), ("b", "x"), ("a", "y.z"), ("c", "w"), ("c", "w")]);
    assert_eq!(map.resolve("a__x"), Some(("a", "x")));
    assert_eq!(map.resolve("b__x"), Some(("b", "x")));
    assert_eq!(map.resolve(&public_name("a", "y.z")), Some(("a", "y.z")));
    assert_eq!(map.resolve("c__w"), None);
    assert_eq!(refused.len(), 2);
    assert!(refused[0].reason.contains("c__w"));
    assert_eq!(map.iter().count(), 3);
}

proptest! {
    #[test]
    fn m8_any_two_texts_have_a_legal_name(server in ".{0,80}", tool in ".{0,80}") {
        prop_assert!(in_grammar(&public_name(&server, &tool)));
    }

    #[test]
    fn m8_names_are_stable_when_other_servers_come_and_go(
        others in prop::collection::vec(("[a-c_.]{0,4}", "[a-c_.]{0,4}"), 0..8),
    ) {
        let (alone, _) = NameMap::gather([("mine", "tool.x")]);
        let pairs = others.into_iter().chain([("mine".to_owned(), "tool.x".to_owned())]);
        let (among, _) = NameMap::gather(pairs);
        let name = public_name("mine", "tool.x");
        prop_assert_eq!(alone.resolve(&name), among.resolve(&name));
    }
}
