"""Images: from folders and Parquet files to Arrow shards of equal rows."""

from prefect import flow

from tasks.core.artifact import Artifact
from tasks.corpus.images import ImagesSettings, images, take_images_inventory


@flow(name="images", validate_parameters=False)
def image_shards(settings: ImagesSettings) -> Artifact:
    """Decode, label, remove duplicates. A night in which any file changed takes them all in anew."""
    return images.run(take_images_inventory(settings), (), settings)
