"""Images and boxes: the embedded scenes, COCO JSON data sets, augmentation and the loader."""
