module captcha

go 1.19
