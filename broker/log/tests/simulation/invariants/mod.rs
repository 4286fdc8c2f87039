//! What must hold after every step, one rule to a file.

mod contents;
mod epochs;
mod indexes;
mod pointers;
mod producers;
mod read_errors;
mod stored_points;
mod time_lookup;

use crate::world::World;

pub fn check_all(world: &mut World) {
    // An offline directory answers nothing; what it held is checked once it is opened anew.
    if world.offline {
        return;
    }
    pointers::check(world);
    contents::check(world);
    epochs::check(world);
    producers::check(world);
    time_lookup::check(world);
    stored_points::check(world);
    read_errors::check(world);
    indexes::check(world);
}
