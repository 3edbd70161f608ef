//! `skete image …`.

use skete_client::{Client, Error, size};

use crate::args::ImageCommand;
use crate::output::{Output, print, table};
use crate::progress::Bar;

/// Runs an image command.
pub(crate) fn run(client: &Client, output: &Output, command: ImageCommand) -> Result<(), Error> {
    match command {
        ImageCommand::Push { file, name, kind } => {
            let mut bar = Bar::new(*output, &name);
            let result = client.image_push(&file, &name, kind.map(Into::into), &mut |done, all| {
                bar.update(done, all);
            });
            drop(bar);
            let image = result?;
            if output.json {
                return output.json(&image);
            }
            output.done(&format!(
                "{name}: {} of {}, sha256 {}",
                image.kind.name(),
                size::show(image.received_bytes),
                image.sha256.as_deref().unwrap_or("unknown")
            ))
        }
        ImageCommand::Ls => list(client, output),
        ImageCommand::Rm { names } => {
            for name in names {
                client.image_delete(&name)?;
                output.done(&format!("{name}: deleted"))?;
            }
            Ok(())
        }
    }
}

fn list(client: &Client, output: &Output) -> Result<(), Error> {
    let images = client.image_list()?;
    if output.json {
        return output.json(&images);
    }
    if output.quiet {
        return images.iter().try_for_each(|image| print(&image.name));
    }
    let rows = images.iter().map(|image| {
        let bytes = image.size_bytes.unwrap_or(image.received_bytes);
        vec![
            image.name.clone(),
            image.kind.name().into(),
            format!("{:?}", image.state).to_lowercase(),
            size::show(bytes),
            image
                .sha256
                .as_deref()
                .unwrap_or("-")
                .chars()
                .take(12)
                .collect(),
            image.used_by.join(","),
        ]
    });
    print(&table(
        &["NAME", "KIND", "STATE", "SIZE", "SHA256", "USED BY"],
        rows,
    ))
}
