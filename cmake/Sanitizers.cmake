# JANG_SANITIZE=address,undefined | thread: for the whole build, or not at all.
if(JANG_SANITIZE)
  add_compile_options(-fsanitize=${JANG_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
  add_link_options(-fsanitize=${JANG_SANITIZE})
endif()
