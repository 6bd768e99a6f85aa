// Swagger UI, with the example of the one endpoint ready to be sent.
"use strict";

const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#description",
  deepLinking: false,
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  docExpansion: "full",
  tryItOutEnabled: true,
  validatorUrl: null,
});

// Sent with each call, and kept nowhere.
document.getElementById("key").addEventListener("input", (event) => {
  ui.preauthorizeApiKey("key", event.target.value.trim());
});

// Swagger UI has a dark style, and leaves it to the page when to use it.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
