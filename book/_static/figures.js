// An image is a link to itself: alone in the window it is as large as it was drawn, which a phone's column is not.
for (const image of document.querySelectorAll("article .cell_output img, article figure img:not(.still)")) {
  const link = document.createElement("a");
  link.href = image.src;
  link.title = "See this image alone";
  image.replaceWith(link);
  link.append(image);
}
