use app::{LOAD_MAX, Store, units};

#[test]
fn a_store_is_weighed() {
    let mut store = Store::new();
    store.put("a").put("b");
    let all = app::weigh(&store);
    units::parse("1");
    assert!(all.is_none() || LOAD_MAX > 0);
}
