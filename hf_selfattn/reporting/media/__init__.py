"""Parts of the page on images and sounds."""
