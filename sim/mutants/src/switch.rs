
// What follows is appended to the root of the crate whose mutants are woven in.

struct MutantSwitch {
    active: u32,
    reached: Option<std::sync::Mutex<std::fs::File>>,
}

static MUTANT_SWITCH: std::sync::LazyLock<MutantSwitch> = std::sync::LazyLock::new(|| {
    let active = std::env::var("MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    let reached = std::env::var("MUTANTS_REACHED").ok().map(|path| {
        std::sync::Mutex::new(std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap())
    });
    MutantSwitch { active, reached }
});

static MUTANTS_SEEN: [std::sync::atomic::AtomicBool; 20_000] =
    [const { std::sync::atomic::AtomicBool::new(false) }; 20_000];

#[inline]
pub(crate) fn mutant(number: u32) -> bool {
    let switch = &*MUTANT_SWITCH;
    if let Some(reached) = &switch.reached {
        mutant_reached(number, reached);
    }
    switch.active == number
}

#[cold]
fn mutant_reached(number: u32, reached: &std::sync::Mutex<std::fs::File>) {
    if !MUTANTS_SEEN[number as usize].swap(true, std::sync::atomic::Ordering::Relaxed) {
        let mut reached = reached.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = std::io::Write::write_all(&mut *reached, format!("{number}\n").as_bytes());
    }
}

/// What a function that returns `impl Iterator` gives back: a mutant's iterator or its own.
pub(crate) struct MutantIterator<'a, T, I>(pub(crate) Option<Box<dyn Iterator<Item = T> + 'a>>, pub(crate) I);

impl<T, I: Iterator<Item = T>> Iterator for MutantIterator<'_, T, I> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.0 {
            Some(mutant) => mutant.next(),
            None => self.1.next(),
        }
    }
}
