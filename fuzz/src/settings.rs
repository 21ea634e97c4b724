//! Settings as text.

use tower_serve::{Preset, Settings};

/// Lines of `name = value`, as `Settings` are told: a name may also be a byte, which says the how manieth it is.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let names: Vec<_> = Settings::names().collect();
    let mut settings = Settings::direct();
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let name = match name.trim().as_bytes() {
            [nth] => names[usize::from(*nth) % names.len()],
            _ => name.trim(),
        };
        let before = settings.clone();
        if let Err(wrong) = settings.set(name, value.trim()) {
            assert_eq!(settings, before, "it is refused and does something");
            assert_eq!(wrong.name(), name);
            assert!(!wrong.to_string().is_empty());
        }
    }
    let told = settings.to_string();
    let mut again = Settings::direct();
    for (name, value) in settings.iter() {
        if let Err(wrong) = again.set(name, &value) {
            panic!("it does not take what it tells: {wrong}");
        }
    }
    assert_eq!(told, again.to_string());

    // What is taken as text is taken by the layers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let _in_it = runtime.enter();
    drop(Preset::new(&settings));
}
